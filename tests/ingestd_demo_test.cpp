// ingestd as a whole, by nothing that only one system has: killed while it is fed, and started
// anew. linux/ingestd_test.cpp asks for more.
#include "support.hpp"

#include <asio/buffer.hpp>
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/read_until.hpp>
#include <asio/write.hpp>

#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
using asio::ip::tcp;

constexpr std::uint64_t lines = 20'000;
constexpr std::uint64_t enough_before_the_kill = 500;

class ingestd_demo : public testing::Test {
 protected:
  void SetUp() override {
    std::ofstream out(input_, std::ios::binary);
    for (std::uint64_t i = 0; i < lines; ++i)
      out << "line " << i << " of what is to be kept\n";
    port_ = free_port();
  }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  std::unique_ptr<support::child_process> started_daemon() {
    const fs::path output = dir_ / ("daemon " + std::to_string(++starts_));
    auto daemon = std::make_unique<support::child_process>(
        INGESTD_PATH,
        std::vector<std::string>{"--dir", (dir_ / "data").string(), "--listen", address()}, output);
    const bool listens = support::eventually(
        [&] { return support::read_file(output).find("listening on ") != std::string::npos; });
    if (!listens) throw std::runtime_error(support::read_file(output));
    return daemon;
  }

  support::child_end client(std::vector<std::string> arguments) {
    arguments.push_back(input_.string());
    return support::child_process(INGEST_PATH, arguments, dir_ / "client").wait();
  }

  /// Asks the daemon for the number that has this name.
  static std::uint64_t ask(tcp::socket& socket, const std::string& name) {
    asio::write(socket, asio::buffer("STATS\n", 6));
    std::string answer;
    asio::read_until(socket, asio::dynamic_buffer(answer), '\n');
    const std::string before = '"' + name + "\":";
    const std::size_t at = answer.find(before);
    if (at == std::string::npos) throw std::runtime_error("no " + name + " in " + answer);
    return std::stoull(answer.substr(at + before.size()));
  }

  tcp::socket connected() {
    tcp::socket socket(io_);
    socket.connect({asio::ip::address_v4::loopback(), port_});
    return socket;
  }

  const support::temp_dir dir_;
  const fs::path input_ = dir_ / "input";
  asio::io_context io_;

 private:
  // Below those that outgoing connections get: whoever tries to connect to one of those while
  // nobody listens can end up connected to itself.
  std::uint16_t free_port() {
    std::random_device random;
    for (;;) {
      const auto port = static_cast<std::uint16_t>(20'000 + random() % 10'000);
      asio::error_code error;
      tcp::acceptor acceptor(io_, tcp::v4());
      acceptor.bind({asio::ip::address_v4::loopback(), port}, error);
      if (!error) return port;
    }
  }

  std::uint16_t port_ = 0;
  int starts_ = 0;
};

TEST_F(ingestd_demo, has_every_line_once_although_it_was_killed) {
  auto daemon = started_daemon();
  support::child_end fed;
  std::thread feeder([&] { fed = client({"--connect", address(), "--connections", "8"}); });
  std::uint64_t durable = 0;
  {
    tcp::socket socket = connected();
    EXPECT_TRUE(support::eventually(
        [&] { return (durable = ask(socket, "records")) >= enough_before_the_kill; }));
  }
  daemon->kill();
  daemon->wait();
  daemon = started_daemon();
  feeder.join();
  EXPECT_TRUE(fed.ok()) << fed << ": " << support::read_file(dir_ / "client");
  {
    tcp::socket socket = connected();
    EXPECT_GE(ask(socket, "recovered_records"), durable);
    EXPECT_EQ(ask(socket, "records"), lines);
  }
  daemon->kill();
  daemon->wait();
  const support::child_end verified =
      client({"--verify", (dir_ / "data").string(), "--connections", "8"});
  EXPECT_TRUE(verified.ok()) << verified << ": " << support::read_file(dir_ / "client");
}

}  // namespace
