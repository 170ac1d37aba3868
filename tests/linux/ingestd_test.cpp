// ingestd and ingest end to end: real processes, real sockets, real kills.
//
// The daemons see MAPIO_BACKEND of the environment, like every other test; what has to be on one
// engine says so itself.

#include "ingestd_harness.hpp"

#include "input.hpp"
#include "latency.hpp"
#include "record.hpp"
#include "verify.hpp"

#include "faults/loop_disk.hpp"
#include "faults/private_mount.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace harness;
using support::temp_dir;

constexpr bool sanitized = support::under_asan || support::under_tsan;
/// So many records that something can happen to it meanwhile.
constexpr std::size_t much = sanitized ? 8000 : 40000;

/// Sends `text` on a connection of its own, and returns the lines that come until it ends.
words conversation(const ingestd_process& d, std::string_view text) {
  wire w(d);
  w.send(text);
  return w.lines_to_the_end();
}

bool is_error(const std::string& line) {
  return line.starts_with("ERR ");
}

// =================================================================================================
// The protocol
// =================================================================================================

class ingestd_protocol : public testing::Test {
 protected:
  temp_dir directory_;
};

TEST_F(ingestd_protocol, answers_hello_with_what_is_stored_and_acknowledges_records) {
  ingestd_process d(directory_.path());
  wire w(d, "meter-7");
  EXPECT_EQ(w.highest(), 0U);
  w.record(1, "21.4");
  EXPECT_EQ(w.line(), "ACK 1");
  w.send("2 21.6\n3 21.5\n4 21.2\n");
  w.wait_for_ack(4);
  w.close();

  EXPECT_EQ(wire(d, "meter-7").highest(), 4U);
  EXPECT_EQ(wire(d, "meter-8").highest(), 0U);
  EXPECT_TRUE(d.terminate().ok()) << d.log();
  EXPECT_EQ(payloads_of(directory_.path(), "meter-7"), (words{"21.4", "21.6", "21.5", "21.2"}));
}

TEST_F(ingestd_protocol, keeps_payloads_byte_by_byte) {
  std::string every_byte;
  for (int c = 0; c < 256; ++c)
    if (c != '\n') every_byte += static_cast<char>(c);
  const words payloads = {"",      " ",       "  two  spaces  ",       every_byte,
                          "1 2 3", "HELLO x", std::string(65536, 'x'), "end\r"};
  {
    ingestd_process d(directory_.path());
    wire w(d, "c");
    for (std::size_t i = 0; i < payloads.size(); ++i)
      w.record(i + 1, payloads[i]);
    w.wait_for_ack(payloads.size());
    EXPECT_TRUE(d.terminate().ok()) << d.log();
  }
  EXPECT_EQ(payloads_of(directory_.path(), "c"), payloads);
}

TEST_F(ingestd_protocol, acknowledges_a_duplicate_again_and_stores_it_once) {
  ingestd_process d(directory_.path());
  wire w(d, "c");
  w.send("1 one\n2 two\n");
  w.wait_for_ack(2);
  w.record(1, "one");
  EXPECT_EQ(w.line(), "ACK 2");
  w.record(3, "three");
  EXPECT_EQ(w.line(), "ACK 3");
  w.close();
  EXPECT_TRUE(d.terminate().ok()) << d.log();
  EXPECT_EQ(payloads_of(directory_.path(), "c"), (words{"one", "two", "three"}));
}

TEST_F(ingestd_protocol, refuses_a_gap_and_stores_nothing_of_it) {
  ingestd_process d(directory_.path());
  wire w(d, "c");
  w.send("1 one\n3 three\n4 four\n");
  const words answers = w.lines_to_the_end();
  ASSERT_EQ(answers.size(), 2U) << testing::PrintToString(answers);
  EXPECT_EQ(answers[0], "ACK 1");
  EXPECT_TRUE(answers[1].starts_with("ERR 3 ")) << answers[1];
  EXPECT_EQ(wire(d, "c").highest(), 1U);
  EXPECT_EQ(payloads_of(directory_.path(), "c"), words{"one"});
}

TEST_F(ingestd_protocol, refuses_malformed_lines_and_disturbs_nobody_else) {
  ingestd_process d(directory_.path());
  wire other(d, "other");
  std::uint64_t sequence = 0;
  const std::string hello = "HELLO c\n";
  const words malformed = {
      "\n",
      "hello\n",
      "HELLO\n",
      "HELLO \n",
      "HELLO two words\n",
      "HELLO tab\there\n",
      "HELLO " + std::string(256, 'x') + "\n",
      "1 before HELLO\n",
      hello + "HELLO c\n",
      hello + "1\n",
      hello + "0 zero\n",
      hello + "-1 negative\n",
      hello + "1x payload\n",
      hello + "99999999999999999999999 overflow\n",
      hello + "nonsense\n",
      "TAIL\n",
      "TAIL x\n",
      "TAIL -1\n",
      std::string("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
      std::string("\0\0\0\0\n", 5),
  };
  for (const std::string& text : malformed) {
    const words answers = conversation(d, text);
    ASSERT_FALSE(answers.empty()) << text;
    EXPECT_TRUE(is_error(answers.back())) << text << answers.back();
    EXPECT_EQ(std::count_if(answers.begin(), answers.end(), is_error), 1) << text;
    other.record(++sequence, "undisturbed");
    EXPECT_EQ(other.line(), "ACK " + std::to_string(sequence));
  }
  EXPECT_TRUE(payloads_of(directory_.path(), "c").empty());
  EXPECT_TRUE(d.running());
}

TEST_F(ingestd_protocol, takes_the_longest_record_and_refuses_a_longer_one) {
  ingestd_process d(directory_.path(), {"--segment-size", "1M", "--max-record", "1000"});
  wire w(d, "c");
  w.record(1, std::string(1000, 'x'));
  EXPECT_EQ(w.line(), "ACK 1");
  w.record(2, std::string(1001, 'x'));
  const words answers = w.lines_to_the_end();
  ASSERT_EQ(answers.size(), 1U) << testing::PrintToString(answers);
  EXPECT_TRUE(is_error(answers[0])) << answers[0];
  EXPECT_EQ(wire(d, "c").highest(), 1U);
}

TEST_F(ingestd_protocol, refuses_a_line_that_never_ends_without_buffering_it) {
  ingestd_process d(directory_.path());
  const std::uint64_t before = d.memory("VmRSS");
  wire w(d, "c");
  const std::string piece(1 << 20, 'x');
  w.send("1 ");
  std::uint64_t most = 0;
  try {
    for (int i = 0; i < 128 && w.send_some(piece, 1s) == piece.size(); ++i)
      most = std::max(most, d.memory("VmRSS"));
  } catch (const std::system_error&) {
    // The server hung up, as it may.
  }
  EXPECT_LT(most, before + (std::uint64_t{32} << 20));
  const words answers = w.lines_to_the_end();
  ASSERT_EQ(answers.size(), 1U) << testing::PrintToString(answers);
  EXPECT_TRUE(is_error(answers[0])) << answers[0];
}

TEST_F(ingestd_protocol, takes_carriage_returns_for_line_ends_if_hello_had_one) {
  ingestd_process d(directory_.path());
  const auto send = [&](const std::string& text) {
    wire w(d);
    w.send(text);
    w.finish_sending();
    return w.lines_to_the_end();
  };
  EXPECT_EQ(send("HELLO dos\r\n1 one\r\n2 \r\n3 three\r\r\n").back(), "ACK 3");
  EXPECT_EQ(send("HELLO unix\n1 one\r\n").back(), "ACK 1");
  EXPECT_TRUE(nlohmann::json::accept(send("STATS\r\n").back()));
  EXPECT_EQ(payloads_of(directory_.path(), "dos"), (words{"one", "", "three\r"}));
  EXPECT_EQ(payloads_of(directory_.path(), "unix"), words{"one\r"});
}

TEST_F(ingestd_protocol, serves_a_client_that_sends_everything_at_once_and_waits) {
  ingestd_process d(directory_.path());
  wire w(d);
  w.send("STATS\nHELLO nc\n1 one\n2 two\n3 three\n");
  w.finish_sending();  // as `nc -N` does at the end of its input
  const words answers = w.lines_to_the_end();
  ASSERT_GE(answers.size(), 3U) << testing::PrintToString(answers);
  EXPECT_TRUE(nlohmann::json::accept(answers[0]));
  EXPECT_EQ(answers[1], "HELLO 0");
  EXPECT_EQ(answers.back(), "ACK 3");
}

TEST_F(ingestd_protocol, tells_a_client_that_its_last_line_is_unfinished) {
  ingestd_process d(directory_.path());
  const auto answers = [&](const std::string& last_line) {
    wire w(d);
    w.send("HELLO c\n1 one\n" + last_line);
    w.finish_sending();
    return w.lines_to_the_end();
  };
  for (const std::string last_line : {"2 unfini", "2", "STA"}) {
    const words got = answers(last_line);
    ASSERT_EQ(got.size(), 3U) << testing::PrintToString(got);
    EXPECT_EQ(got[1], "ACK 1");
    EXPECT_TRUE(is_error(got[2])) << got[2];
    EXPECT_EQ(got[2].starts_with("ERR 2 "), last_line.size() > 3) << got[2];
  }
  EXPECT_EQ(payloads_of(directory_.path(), "c"), words{"one"});
}

TEST_F(ingestd_protocol, serves_a_client_that_sends_byte_by_byte) {
  ingestd_process d(directory_.path());
  wire w(d);
  for (const char c : std::string("HELLO slow\n1 one\n2 two\n"))
    w.send({&c, 1});
  EXPECT_EQ(w.line(), "HELLO 0");
  w.wait_for_ack(2);
  EXPECT_EQ(payloads_of(directory_.path(), "slow"), (words{"one", "two"}));
}

TEST_F(ingestd_protocol, gives_a_client_id_to_the_newest_connection) {
  ingestd_process d(directory_.path());
  wire older(d, "c");
  older.send("1 one\n2 two\n");
  older.wait_for_ack(2);
  wire newer(d, "c");
  EXPECT_EQ(newer.highest(), 2U);
  const words answers = older.lines_to_the_end();
  ASSERT_EQ(answers.size(), 1U) << testing::PrintToString(answers);
  EXPECT_TRUE(is_error(answers[0])) << answers[0];
  newer.record(3, "three");
  EXPECT_EQ(newer.line(), "ACK 3");
  EXPECT_EQ(payloads_of(directory_.path(), "c"), (words{"one", "two", "three"}));
}

TEST_F(ingestd_protocol, answers_stats_with_a_line_of_json) {
  {
    ingestd_process d(directory_.path());
    wire w(d, "c");
    w.send("1 four\n2 five5\n3 \n");
    w.wait_for_ack(3);
  }
  ingestd_process d(directory_.path());
  wire w(d, "c");
  w.record(4, "x");
  w.wait_for_ack(4);
  w.send("STATS\n");
  const auto stats = nlohmann::json::parse(w.line());
  EXPECT_EQ(stats.at("records"), 4);
  EXPECT_EQ(stats.at("recovered_records"), 3);
  EXPECT_EQ(stats.at("bytes"), 10);
  EXPECT_GE(stats.at("syncs"), 1);
  EXPECT_EQ(stats.at("sync_failures"), 0);
  EXPECT_GT(stats.at("records_per_sync"), 0);
  EXPECT_EQ(stats.at("segments"), 1);
  EXPECT_EQ(stats.at("clients"), 1);
  EXPECT_EQ(stats.at("connections"), 1);
  EXPECT_EQ(stats.at("problem"), "");
}

TEST_F(ingestd_protocol, says_which_engine_it_uses) {
  const char* forced = std::getenv("MAPIO_BACKEND");
  {
    const ingestd_process d(directory_.path());
    const std::string engine = stats_of(d).at("backend");
    if (forced != nullptr) {
      EXPECT_EQ(engine, forced);
    } else {
      EXPECT_TRUE(engine == "io_uring" || engine == "thread_pool") << engine;
    }
  }
  const ingestd_process d(directory_.path(), small_segments() + words{"--backend", "thread_pool"});
  EXPECT_EQ(stats_of(d).at("backend"), "thread_pool");
}

TEST_F(ingestd_protocol, works_on_either_engine_over_the_same_directory) {
  words expected;
  std::vector<words> engines = {{}, {"--backend", "thread_pool"}, {}};
  for (const words& engine : engines) {
    ingestd_process d(directory_.path(), small_segments() + engine);
    wire w(d, "c");
    ASSERT_EQ(w.highest(), expected.size());
    expected.push_back("record " + std::to_string(expected.size()));
    w.record(expected.size(), expected.back());
    w.wait_for_ack(expected.size());
    EXPECT_TRUE(d.terminate().ok()) << d.log();
  }
  EXPECT_EQ(payloads_of(directory_.path(), "c"), expected);
}

TEST_F(ingestd_protocol, stats_never_count_backwards) {
  ingestd_process d(directory_.path(), {"--segment-size", "64K", "--max-record", "8K"});
  std::atomic<int> writing = 8;
  std::vector<std::thread> writers;
  for (int c = 0; c < 8; ++c)
    writers.emplace_back([&d, &writing, c] {
      wire w(d, "c" + std::to_string(c));
      for (std::uint64_t i = 1; i <= 3000; ++i)
        w.record(i, std::string(1000, 'r'));
      w.wait_for_ack(3000);
      --writing;
    });
  std::uint64_t records = 0;
  std::uint64_t syncs = 0;
  wire asking(d);
  while (writing > 0) {
    asking.send("STATS\n");
    const auto stats = nlohmann::json::parse(asking.line());
    EXPECT_GE(stats.at("records").get<std::uint64_t>(), records);
    EXPECT_GE(stats.at("syncs").get<std::uint64_t>(), syncs);
    records = stats.at("records");
    syncs = stats.at("syncs");
  }
  for (auto& t : writers)
    t.join();
}

// =================================================================================================
// TAIL
// =================================================================================================

/// One line of a TAIL.
struct tail_line {
  std::uint64_t offset = 0;
  std::string rest;  // client, sequence and payload

  explicit tail_line(const std::string& line) {
    const std::size_t space = line.find(' ');
    if (space == std::string::npos) throw std::runtime_error("not a line of TAIL: " + line);
    offset = std::stoull(line.substr(0, space));
    rest = line.substr(space + 1);
  }
};

class ingestd_tail : public testing::Test {
 protected:
  temp_dir directory_;
};

TEST_F(ingestd_tail, shows_records_from_the_beginning_and_goes_on_live) {
  ingestd_process d(directory_.path());
  wire a(d, "a");
  wire b(d, "b");
  a.record(1, "first");
  a.wait_for_ack(1);

  wire tail(d);
  tail.send("TAIL 0\n");
  const tail_line first(tail.line());
  EXPECT_EQ(first.offset, 0U);
  EXPECT_EQ(first.rest, "a 1 first");

  b.record(1, "second  with spaces");
  b.wait_for_ack(1);
  const tail_line second(tail.line());
  EXPECT_GT(second.offset, first.offset);
  EXPECT_EQ(second.rest, "b 1 second  with spaces");

  a.record(2, "");
  EXPECT_EQ(tail_line(tail.line()).rest, "a 2 ");
  a.wait_for_ack(2);

  wire again(d);
  again.send("TAIL " + std::to_string(second.offset) + "\n");
  EXPECT_EQ(tail_line(again.line()).rest, "b 1 second  with spaces");
  EXPECT_EQ(tail_line(again.line()).rest, "a 2 ");

  // A tail ends with the daemon, and does not keep it.
  EXPECT_TRUE(d.terminate().ok()) << d.log();
  EXPECT_TRUE(tail.lines_to_the_end().empty());
}

TEST_F(ingestd_tail, waits_at_the_end_of_an_empty_log) {
  ingestd_process d(directory_.path());
  wire tail(d);
  tail.send("TAIL 0\n");
  wire w(d, "c");
  w.record(1, "x");
  EXPECT_EQ(tail.line(), "0 c 1 x");
}

TEST_F(ingestd_tail, refuses_an_offset_where_no_record_starts) {
  ingestd_process d(directory_.path());
  wire w(d, "c");
  w.send("1 one\n2 two\n");
  w.wait_for_ack(2);
  for (const char* text :
       {"TAIL 1\n", "TAIL 8\n", "TAIL 1000000\n", "TAIL 18446744073709551615\n"}) {
    const words answers = conversation(d, text);
    ASSERT_EQ(answers.size(), 1U) << text;
    EXPECT_TRUE(is_error(answers[0])) << answers[0];
  }
  w.record(3, "three");
  w.wait_for_ack(3);
}

TEST_F(ingestd_tail, reads_no_more_than_a_record_where_none_starts) {
  ingestd_process d(directory_.path(), {"--segment-size", "64M"});
  wire w(d, "c");
  // What stands at log offset 40, behind the record's header, the client's name and 7 bytes, looks
  // like the header of a record of 20 MiB.
  using namespace std::string_literals;
  const std::string lure = "7 bytes" + "checksum"s + "\0\0\x40\x01"s + "\1\0"s + "\1\0"s;
  std::string lines = "1 " + lure + "\n";
  constexpr std::uint64_t count = 3000;
  for (std::uint64_t i = 2; i <= count; ++i)
    lines += std::to_string(i) + " " + std::string(10'000, 'x') + "\n";
  w.send(lines);
  w.wait_for_ack(count);
  const std::uint64_t before = d.memory("RssAnon");
  std::deque<wire> tails;
  for (int i = 0; i < 20; ++i)
    tails.emplace_back(d).send(i % 2 == 0 ? "TAIL 40\n" : "TAIL 4096\n");
  std::atomic<bool> answered = false;
  std::uint64_t most = 0;
  std::thread sampler([&] {
    while (!answered)
      most = std::max(most, d.memory("RssAnon"));
  });
  for (wire& tail : tails) {
    const words answers = tail.lines_to_the_end();
    EXPECT_EQ(answers.size(), 1U);
    if (!answers.empty()) {
      EXPECT_TRUE(is_error(answers[0])) << answers[0];
    }
  }
  answered = true;
  sampler.join();
  EXPECT_LT(most, before + (std::uint64_t{sanitized ? 96U : 16U} << 20));
  w.record(count + 1, "more");
  w.wait_for_ack(count + 1);
}

TEST_F(ingestd_tail, streams_a_record_that_is_longer_than_what_it_reads_at_a_time) {
  const std::string payload = std::string(900'000, 'y') + "end";
  for (const bool restarted : {false, true}) {
    ingestd_process d(directory_.path(), {"--segment-size", "8M"});
    if (!restarted) {
      wire w(d, "c");
      w.record(1, "short");
      w.record(2, payload);
      w.wait_for_ack(2);
    }
    wire tail(d);
    tail.send("TAIL 0\n");
    EXPECT_EQ(tail.line(), "0 c 1 short");
    EXPECT_TRUE(tail.line().ends_with(" c 2 " + payload));
    EXPECT_TRUE(d.terminate().ok());
  }
}

TEST_F(ingestd_tail, crosses_segments_before_and_after_a_restart) {
  const words tiny = {"--segment-size", "64K", "--max-record", "16K"};
  constexpr std::size_t count = 60;
  words expected;
  for (std::size_t i = 1; i <= count; ++i)
    expected.push_back("c " + std::to_string(i) + " " +
                       support::pattern(5000 + i * 100, i).substr(0, 0) +
                       std::string(5000 + i * 100, static_cast<char>('a' + i % 26)));
  for (const bool restarted : {false, true}) {
    ingestd_process d(directory_.path(), tiny);
    if (!restarted) {
      wire w(d, "c");
      for (const std::string& text : expected)
        w.send(text.substr(2) + "\n");
      w.wait_for_ack(count);
    }
    EXPECT_GT(stats_of(d).at("segments"), 5);
    wire tail(d);
    tail.send("TAIL 0\n");
    std::uint64_t middle = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const tail_line l(tail.line());
      ASSERT_EQ(l.rest, expected[i]) << i;
      if (i == count / 2) middle = l.offset;
    }
    wire half(d);
    half.send("TAIL " + std::to_string(middle) + "\n");
    for (std::size_t i = count / 2; i < count; ++i)
      ASSERT_EQ(tail_line(half.line()).rest, expected[i]) << i;
    EXPECT_TRUE(d.terminate().ok()) << d.log();
  }
}

TEST_F(ingestd_tail, that_nobody_reads_disturbs_nobody) {
  ingestd_process d(directory_.path(), {"--segment-size", "4M", "--max-record", "64K"});
  const std::uint64_t before = d.memory("RssAnon");
  wire tail(d);
  tail.send("TAIL 0\n");
  wire w(d, "c");
  constexpr std::uint64_t count = 600;
  const std::string payload(60000, 'x');
  for (std::uint64_t i = 1; i <= count; ++i)
    w.record(i, payload);
  w.wait_for_ack(count);
  EXPECT_LT(d.memory("RssAnon"), before + (std::uint64_t{sanitized ? 128U : 16U} << 20));
  for (std::uint64_t i = 1; i <= count; ++i)
    ASSERT_EQ(tail_line(tail.line()).rest, "c " + std::to_string(i) + " " + payload);
}

/// The tracer's arguments for a disk on which each sync takes a second.
words slow_syncs() {
  return {"-e", "trace=msync,fdatasync,fsync", "-e",
          "inject=msync,fdatasync,fsync:delay_enter=1000000"};
}

TEST_F(ingestd_tail, shows_nothing_before_it_is_durable) {
  if (!no_tracing().empty()) GTEST_SKIP() << no_tracing();
  ingestd_process d(directory_.path(), small_segments() + words{"--backend", "thread_pool"});
  wire w(d, "c");
  w.record(1, "so that the segment is in use");
  w.wait_for_ack(1);
  wire tail(d);
  tail.send("TAIL 0\n");
  EXPECT_EQ(tail.line(), "0 c 1 so that the segment is in use");

  const tracer slow_disk(d.pid(), slow_syncs());
  const auto begin = clock::now();
  w.record(2, "not durable yet");
  EXPECT_TRUE(tail.silent_for(500ms));
  EXPECT_TRUE(w.silent_for(0ms));
  w.wait_for_ack(2);
  EXPECT_GE(clock::now() - begin, 1s);
  EXPECT_EQ(tail_line(tail.line()).rest, "c 2 not durable yet");
}

/// A segment that no daemon wrote.
class made_segment {
 public:
  made_segment(std::uint32_t number, std::uint64_t base, std::size_t size) : bytes_(size) {
    ingestd::encode_segment_header(out().first<ingestd::segment_header_size>(),
                                   {number, size, salt});
    put({ingestd::record_type::segment_start, {}, base, 0, {}});
  }

  void put(const ingestd::record& r) {
    position_ += ingestd::encode_record(out().subspan(position_), r,
                                        ingestd::checksum_seed(salt, position_));
  }
  std::string_view bytes() const {
    return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
  }

 private:
  static constexpr std::uint64_t salt = 12345;
  std::span<std::byte> out() { return bytes_; }

  std::vector<std::byte> bytes_;
  std::uint64_t position_ = ingestd::segment_header_size;
};

// =================================================================================================
// ingest --follow: the log from another process
// =================================================================================================

class ingest_follow : public testing::Test {
 protected:
  std::unique_ptr<process> follower() const {
    return std::make_unique<process>(words{INGEST_PATH, "--follow", data().string()});
  }
  fs::path data() const { return directory_ / "data"; }
  /// What TAIL would show of all that is stored.
  std::string stored() const {
    std::string lines;
    for (const stored_record& r : stored_in(data()))
      lines += std::to_string(r.log_offset) + " " + r.client + " " + std::to_string(r.sequence) +
               " " + r.payload + "\n";
    return lines;
  }
  static void expect_shown(const process& follower, const std::string& lines) {
    EXPECT_TRUE(becomes_true([&] { return follower.out().size() >= lines.size(); }))
        << follower.err();
    EXPECT_TRUE(support::same(follower.out(), lines)) << follower.err();
  }

  temp_dir directory_;
};

TEST_F(ingest_follow, shows_records_from_the_beginning_and_goes_on_live) {
  // It comes before the directory.
  const auto early = follower();
  ingestd_process d(data());
  wire a(d, "a");
  wire b(d, "b");
  a.record(1, "first");
  a.wait_for_ack(1);
  expect_shown(*early, "0 a 1 first\n");
  const auto late = follower();
  b.record(1, "second  with spaces");
  b.wait_for_ack(1);
  a.record(2, "");
  a.wait_for_ack(2);
  const std::string all = stored();
  EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 3);
  expect_shown(*early, all);
  expect_shown(*late, all);
  EXPECT_TRUE(d.terminate().ok()) << d.log();
  // Nor does it need a daemon.
  expect_shown(*follower(), all);
}

TEST_F(ingest_follow, shows_every_acknowledged_record_once_across_segments_and_kills) {
  const words tiny = {"--segment-size", "64K", "--max-record", "8K"};
  const auto live = follower();
  std::mt19937 random(1);
  std::map<std::string, std::uint64_t> acknowledged;
  const words names = {"a", "b"};
  for (int round = 0; round < 4; ++round) {
    ingestd_process d(data(), tiny);
    std::deque<wire> wires;
    for (const std::string& name : names)
      wires.emplace_back(d, name);
    for (std::size_t c = 0; c < names.size(); ++c) {
      wire& w = wires[c];
      ASSERT_GE(w.highest(), acknowledged[names[c]]);
      std::string text;
      for (std::uint64_t s = w.highest() + 1; s <= w.highest() + 120; ++s)
        text += std::to_string(s) + " " + std::string(random() % 2000, 'x') + "\n";
      w.send(text);
    }
    for (std::size_t c = 0; c < names.size(); ++c) {
      wire& w = wires[c];
      const std::uint64_t enough = w.highest() + 60;
      while (acknowledged[names[c]] < enough)
        acknowledged[names[c]] = wire::number_of("ACK", w.line());
    }
    // Some are on the way.
    d.kill();
    for (std::size_t c = 0; c < names.size(); ++c)
      while (const auto l = wires[c].next_line())
        acknowledged[names[c]] = wire::number_of("ACK", *l);
  }
  ingestd_process d(data(), tiny);
  wire w(d, "last");
  w.record(1, "the end");
  w.wait_for_ack(1);
  const std::vector<stored_record> records = stored_in(data());
  EXPECT_GT(records.back().segment, 5U);
  std::map<std::string, std::uint64_t> highest;
  for (const stored_record& r : records)
    EXPECT_EQ(r.sequence, ++highest[r.client]);
  for (const auto& [name, sequence] : acknowledged)
    EXPECT_GE(highest[name], sequence);
  expect_shown(*live, stored());
  EXPECT_TRUE(live->running());
}

TEST_F(ingest_follow, says_that_the_log_is_another_one) {
  {
    ingestd_process d(data());
    wire w(d, "c");
    w.record(1, "text");
    w.wait_for_ack(1);
  }
  const auto live = follower();
  expect_shown(*live, "0 c 1 text\n");
  fs::remove(data() / ingestd::segment_name(1));
  EXPECT_TRUE(live->wait().exited_with(1));
  EXPECT_NE(live->err().find("is gone"), std::string::npos) << live->err();
}

TEST_F(ingest_follow, says_that_what_it_showed_was_given_up) {
  {
    ingestd_process d(data());
    wire w(d, "c");
    w.record(1, "kept");
    w.record(2, "given up");
    w.wait_for_ack(2);
  }
  const auto live = follower();
  expect_shown(*live, stored());
  // As a daemon does that cannot make the second one durable: it goes on behind the first, in a new
  // segment.
  const made_segment next(2, stored_in(data()).at(1).log_offset, 64 << 10);
  support::write_file(data() / "new", next.bytes());
  fs::rename(data() / "new", data() / ingestd::segment_name(2));
  EXPECT_TRUE(live->wait().exited_with(1));
  EXPECT_NE(live->err().find("given up records"), std::string::npos) << live->err();
}

// =================================================================================================
// Clients that misbehave
// =================================================================================================

class ingestd_clients : public testing::Test {
 protected:
  temp_dir directory_;
};

TEST_F(ingestd_clients, that_vanish_in_the_middle_of_a_line_lose_only_that_line) {
  ingestd_process d(directory_.path());
  wire other(d, "other");
  {
    wire w(d, "c");
    w.send("1 whole\n2 hal");
    w.wait_for_ack(1);
  }
  {
    wire w(d, "c");
    EXPECT_EQ(w.highest(), 1U);
    w.send("2 whole\n3 hal");
    w.wait_for_ack(2);
    w.reset();
  }
  EXPECT_EQ(wire(d, "c").highest(), 2U);
  EXPECT_TRUE(becomes_true([&] {
    return d.log().find("in the middle of a line") != std::string::npos;
  })) << d.log();
  other.record(1, "undisturbed");
  EXPECT_EQ(other.line(), "ACK 1");
  EXPECT_EQ(payloads_of(directory_.path(), "c"), (words{"whole", "whole"}));
}

TEST_F(ingestd_clients, that_vanish_without_waiting_for_acknowledgements_leave_a_prefix) {
  ingestd_process d(directory_.path());
  for (int round = 0; round < 20; ++round) {
    wire w(d, "c" + std::to_string(round));
    std::string burst;
    for (int i = 1; i <= 500; ++i)
      burst += std::to_string(i) + " payload " + std::to_string(i) + "\n";
    w.send(burst);
    w.reset();
  }
  wire w(d, "last");
  w.record(1, "x");
  w.wait_for_ack(1);
  EXPECT_TRUE(d.terminate().ok()) << d.log();
  for (int round = 0; round < 20; ++round) {
    const words stored = payloads_of(directory_.path(), "c" + std::to_string(round));
    for (std::size_t i = 0; i < stored.size(); ++i)
      EXPECT_EQ(stored[i], "payload " + std::to_string(i + 1));
  }
}

TEST_F(ingestd_clients, that_stall_are_ended_and_those_that_are_silent_are_not) {
  ingestd_process d(directory_.path(), small_segments() + words{"--idle-timeout", "0.2"});
  wire silent(d, "silent");
  wire stalled(d, "stalled");
  stalled.send("1 whole\n2 never finish");
  stalled.wait_for_ack(1);
  wire busy(d, "busy");
  for (std::uint64_t sequence = 1; stalled.silent_for(0ms); ++sequence) {
    busy.record(sequence, "undisturbed");
    busy.wait_for_ack(sequence);
  }
  const words answers = stalled.lines_to_the_end();
  ASSERT_EQ(answers.size(), 1U) << testing::PrintToString(answers);
  EXPECT_TRUE(is_error(answers[0])) << answers[0];
  EXPECT_NE(d.log().find("stalled"), std::string::npos) << d.log();
  EXPECT_EQ(wire(d, "stalled").highest(), 1U);
  silent.record(1, "still here");
  EXPECT_EQ(silent.line(), "ACK 1");
}

/// Fills what lies between a daemon and a client that does not read its answers.
void ask_and_not_read(wire& w) {
  std::string questions;
  for (int i = 0; i < 1000; ++i)
    questions += "STATS\n";
  while (w.send_some(questions, 200ms) == questions.size()) {
  }
}

bool mentions(const ingestd_process& d, std::string_view what) {
  return d.log().find(what) != std::string::npos;
}

TEST_F(ingestd_clients, that_do_not_read_are_told_so_and_ended) {
  ingestd_process d(directory_.path(),
                    {"--segment-size", "4M", "--max-record", "64K", "--idle-timeout", "0.5"});
  wire w(d, "c");
  constexpr std::uint64_t count = 1500;
  const std::string payload(20000, 'x');
  for (std::uint64_t i = 1; i <= count; ++i)
    w.record(i, payload);
  w.wait_for_ack(count);
  wire tail(d);
  tail.send("TAIL 0\n");
  wire deaf(d);
  ask_and_not_read(deaf);
  EXPECT_TRUE(becomes_true([&] { return stats_of(d).at("connections") == 2; })) << d.log();
  EXPECT_TRUE(mentions(d, "is not read")) << d.log();

  // What they find when they read after all: whole lines, and why there are no more.
  const words records = tail.lines_to_the_end();
  ASSERT_GE(records.size(), 2U);
  EXPECT_LT(records.size(), count);
  for (std::size_t i = 0; i + 1 < records.size(); ++i)
    ASSERT_EQ(tail_line(records[i]).rest, "c " + std::to_string(i + 1) + " " + payload);
  EXPECT_TRUE(is_error(records.back())) << records.back().substr(0, 100);
  EXPECT_EQ(tail.rest(), "");

  w.record(count + 1, "undisturbed");
  w.wait_for_ack(count + 1);
}

TEST_F(ingestd_clients, that_do_not_read_do_not_hold_up_the_end) {
  ingestd_process d(directory_.path(), {"--segment-size", "4M", "--max-record", "64K"});
  wire w(d, "c");
  for (std::uint64_t i = 1; i <= 300; ++i)
    w.record(i, std::string(60000, 'x'));
  w.wait_for_ack(300);
  w.close();
  wire tail(d);
  tail.send("TAIL 0\n");
  wire deaf(d);
  ask_and_not_read(deaf);
  const child_end end = d.terminate();
  EXPECT_TRUE(end.ok()) << end << d.log();
  EXPECT_FALSE(mentions(d, "cut off")) << d.log();
}

TEST_F(ingestd_clients, may_be_many) {
  ingestd_process d(directory_.path());
  constexpr std::size_t count = 300;
  std::vector<std::unique_ptr<wire>> wires;
  wires.reserve(count);
  for (std::size_t i = 0; i < count; ++i)
    wires.push_back(std::make_unique<wire>(d, "client-" + std::to_string(i)));
  for (std::uint64_t sequence = 1; sequence <= 3; ++sequence)
    for (const auto& w : wires)
      w->record(sequence, "payload");
  for (const auto& w : wires)
    w->wait_for_ack(3);
  const auto stats = stats_of(d);
  EXPECT_EQ(stats.at("clients"), count);
  EXPECT_EQ(stats.at("connections"), count + 1);
  EXPECT_EQ(stats.at("records"), 3 * count);
  // That many clients share syncs, or this would be 1.
  EXPECT_GT(stats.at("records_per_sync"), 1.5);
  wires.clear();
  EXPECT_TRUE(becomes_true([&] { return stats_of(d).at("connections") == 1; }));
}

TEST_F(ingestd_clients, that_store_nothing_are_forgotten) {
  ingestd_process d(directory_.path());
  wire keeps(d, "keeps");
  keeps.record(1, "x");
  keeps.wait_for_ack(1);
  keeps.close();
  wire stays(d, "stays");
  for (int i = 0; i < 100; ++i)
    wire(d, "client-" + std::to_string(i)).record(2, "a gap");
  EXPECT_TRUE(becomes_true([&] { return stats_of(d).at("clients") == 2; })) << stats_of(d);
  // One that takes an id over from another before it is forgotten.
  for (int i = 0; i < 100; ++i)
    wire(d, "stays");
  wire again(d, "stays");
  again.record(1, "y");
  again.wait_for_ack(1);
  EXPECT_EQ(wire(d, "keeps").highest(), 1U);
  EXPECT_EQ(payloads_of(directory_.path(), "stays"), words{"y"});
}

TEST_F(ingestd_clients, beyond_the_limit_are_told_so) {
  ingestd_process d(directory_.path(), small_segments() + words{"--max-connections", "2"});
  wire a(d, "a");
  wire b(d, "b");
  {
    wire c(d);
    const words answers = c.lines_to_the_end();
    ASSERT_EQ(answers.size(), 1U);
    EXPECT_TRUE(is_error(answers[0])) << answers[0];
  }
  a.close();
  EXPECT_TRUE(becomes_true([&] {
    wire c(d);
    c.send("STATS\n");
    const auto line = c.next_line();
    return line && !is_error(*line);
  }));
  b.record(1, "x");
  EXPECT_EQ(b.line(), "ACK 1");
}

struct flooded {
  std::size_t bytes = 0;      ///< Taken by the socket.
  std::uint64_t records = 0;  ///< Of those, whole lines.
  std::uint64_t memory = 0;   ///< The largest use seen.
};

/// Sends up to `bytes` of records and reads nothing, until `limit` has passed.
flooded flood(const ingestd_process& d, wire& w, std::size_t bytes, clock::duration limit) {
  const auto end = clock::now() + limit;
  const std::string payload(60000, 'x');
  flooded result;
  for (std::uint64_t sequence = 1; result.bytes < bytes && clock::now() < end; ++sequence) {
    const std::string text = std::to_string(sequence) + " " + payload + "\n";
    const std::size_t n = w.send_some(text, end - clock::now());
    result.bytes += n;
    result.memory = std::max(result.memory, d.memory("VmRSS"));
    if (n < text.size()) break;
    result.records = sequence;
  }
  return result;
}

TEST_F(ingestd_clients, that_never_read_do_not_make_it_grow) {
  ingestd_process d(directory_.path(), {"--segment-size", "4M", "--max-record", "64K"});
  const std::uint64_t before = d.memory("VmRSS");
  wire w(d, "c");
  const flooded sent = flood(d, w, std::size_t{200} << 20, 30s);
  EXPECT_GT(sent.bytes, std::size_t{4} << 20);
  // Memory counts the mapped segments that are open as well: the current one, the next, and the one
  // before.
  EXPECT_LT(sent.memory, before + (std::uint64_t{sanitized ? 400U : 48U} << 20)) << sent.bytes;
}

// On a disk where each sync takes a second: whoever reads what it cannot store yet shows it here.
TEST_F(ingestd_clients, that_are_faster_than_the_disk_are_slowed_down) {
  if (!no_tracing().empty()) GTEST_SKIP() << no_tracing();
  ingestd_process d(directory_.path(),
                    {"--segment-size", "64M", "--max-record", "64K", "--backend", "thread_pool"});
  wire warm_up(d, "warm-up");
  warm_up.record(1, "x");
  warm_up.wait_for_ack(1);
  const std::uint64_t before = d.memory("RssAnon");
  wire w(d, "c");
  flooded sent;
  {
    const tracer slow_disk(d.pid(), slow_syncs());
    sent = flood(d, w, std::size_t{200} << 20, 5s);
    EXPECT_LT(sent.bytes, std::size_t{64} << 20);
    EXPECT_LT(d.memory("RssAnon"), before + (std::uint64_t{sanitized ? 96U : 24U} << 20));
  }
  w.finish_sending();
  words answers = w.lines_to_the_end();
  // The last line may have been cut off.
  if (!answers.empty() && is_error(answers.back())) answers.pop_back();
  ASSERT_FALSE(answers.empty());
  EXPECT_EQ(wire::number_of("ACK", answers.back()), sent.records) << sent.bytes;
}

// =================================================================================================
// Ends, and beginnings after them
// =================================================================================================

class ingestd_end : public testing::TestWithParam<int> {};

TEST_P(ingestd_end, in_the_middle_of_the_work_acknowledges_what_was_taken) {
  const temp_dir directory;
  ingestd_process d(directory.path());
  constexpr std::size_t count = 4;
  std::vector<std::unique_ptr<wire>> wires;
  wires.reserve(count);
  for (std::size_t i = 0; i < count; ++i)
    wires.push_back(std::make_unique<wire>(d, "c" + std::to_string(i)));
  std::vector<std::jthread> senders;
  senders.reserve(count);
  for (const auto& w : wires) {
    senders.emplace_back([&w = *w] {
      try {
        for (std::uint64_t s = 1;; s += 10) {
          std::string text;
          for (std::uint64_t i = s; i < s + 10; ++i)
            text += std::to_string(i) + " record " + std::to_string(i) + "\n";
          w.send(text);
        }
      } catch (const std::exception&) {
        // The daemon reads no more, or is gone: that is what this is about.
      }
    });
  }
  // If something throws below, the senders must not wait for a daemon that does not read.
  const std::unique_ptr<ingestd_process, void (*)(ingestd_process*)> on_failure(
      &d, [](ingestd_process* p) { p->signal(SIGKILL); });
  for (const auto& w : wires)
    while (wire::number_of("ACK", w->line()) < 500) {
    }
  d.signal(GetParam());
  std::vector<std::uint64_t> acknowledged;
  for (const auto& w : wires) {
    std::uint64_t last = 0;
    while (const auto l = w->next_line())
      last = wire::number_of("ACK", *l);
    acknowledged.push_back(last);
  }
  const child_end end = d.wait();
  for (auto& s : senders)
    s.join();
  EXPECT_TRUE(end.ok()) << end << d.log();
  for (std::size_t i = 0; i < count; ++i) {
    const words stored = payloads_of(directory.path(), "c" + std::to_string(i));
    EXPECT_EQ(stored.size(), acknowledged[i]);
    for (std::size_t s = 0; s < stored.size(); ++s)
      ASSERT_EQ(stored[s], "record " + std::to_string(s + 1));
  }
}

TEST_P(ingestd_end, during_a_sync_waits_for_it_and_acknowledges) {
  if (!no_tracing().empty()) GTEST_SKIP() << no_tracing();
  const temp_dir directory;
  ingestd_process d(directory.path(), small_segments() + words{"--backend", "thread_pool"});
  wire w(d, "c");
  w.record(1, "so that the segment is in use");
  w.wait_for_ack(1);
  {
    const tracer slow_disk(d.pid(), slow_syncs());
    w.record(2, "on its way");
    ASSERT_TRUE(becomes_true([&] { return slow_disk.trace().find("sync(") != std::string::npos; }));
    EXPECT_TRUE(w.silent_for(0ms));
    d.signal(GetParam());
    EXPECT_EQ(w.line(), "ACK 2");
    EXPECT_TRUE(w.lines_to_the_end().empty());
    w.close();
  }
  const child_end end = d.wait();
  EXPECT_TRUE(end.ok()) << end << d.log();
  EXPECT_EQ(payloads_of(directory.path(), "c").size(), 2U);
}

TEST_P(ingestd_end, of_an_idle_daemon_with_connections_is_clean) {
  const temp_dir directory;
  ingestd_process d(directory.path());
  wire idle(d, "c");
  wire nameless(d);
  d.signal(GetParam());
  const child_end end = d.wait();
  EXPECT_TRUE(end.ok()) << end << d.log();
  EXPECT_TRUE(idle.lines_to_the_end().empty());
  EXPECT_TRUE(nameless.lines_to_the_end().empty());
}

INSTANTIATE_TEST_SUITE_P(signals, ingestd_end, testing::Values(SIGTERM, SIGINT),
                         [](const auto& tested) {
                           return std::string(tested.param == SIGTERM ? "SIGTERM" : "SIGINT");
                         });

class ingestd_start : public testing::Test {
 protected:
  temp_dir directory_;
};

TEST_F(ingestd_start, is_refused_for_a_directory_that_is_in_use) {
  ingestd_process first(directory_.path());
  wire w(first, "c");
  const finished second(ingestd_command(directory_.path(), small_segments(), "127.0.0.1:0"));
  EXPECT_TRUE(second.end.exited_with(2)) << second.end;
  EXPECT_EQ(second.out, "");
  EXPECT_NE(second.err.find("in use by another ingestd"), std::string::npos) << second.err;
  EXPECT_NE(second.err.find(std::to_string(first.pid())), std::string::npos) << second.err;
  w.record(1, "x");
  EXPECT_EQ(w.line(), "ACK 1");
  first.kill();
  EXPECT_EQ(wire(ingestd_process(directory_.path()), "c").highest(), 1U);
}

TEST_F(ingestd_start, is_refused_for_an_address_that_is_in_use) {
  const temp_dir other;
  const ingestd_process first(directory_.path());
  const finished second(ingestd_command(other.path(), small_segments(), first.address()));
  EXPECT_TRUE(second.end.exited_with(1)) << second.end;
  EXPECT_EQ(second.out, "");
  EXPECT_FALSE(second.err.empty());
}

TEST_F(ingestd_start, is_refused_for_numbers_that_make_no_sense) {
  for (const words& arguments : std::vector<words>{
           {"--segment-size", "-5"},
           {"--segment-size", "0"},
           {"--segment-size", "1000"},
           {"--segment-size", "1M"},  // no record of the default length has room
           {"--segment-size", "much"},
           {"--segment-size", "1.5M"},
           {"--segment-size", "64Q"},
           {"--segment-size", "20000000T"},
           {"--segment-size", "18446744073709551616"},
           {"--segment-size", "18446744073709551615"},
           {"--segment-size", ""},
           {"--max-record", "-1"},
           {"--max-record", "0"},
           {"--max-record", "2G"},
           {"--max-record", "65M"},
           {"--max-pending", "-1"},
           {"--max-connections", "-1"},
           {"--max-connections", "0"},
           {"--idle-timeout", "-1"},
           {"--idle-timeout", "0"},
           {"--idle-timeout", "nan"},
           {"--idle-timeout", "1e300"},
           {"--listen", "127.0.0.1:65536"},
           {"--listen", "127.0.0.1:-1"},
           {"--listen", "nowhere"},
       }) {
    const finished refused(
        words{INGESTD_PATH, "--dir", (directory_ / "data").string()} +
            (arguments[0] == "--listen" ? words{} : words{"--listen", "127.0.0.1:0"}) + arguments,
        10s);
    EXPECT_TRUE(refused.end.signal == 0 && refused.end.code > 100)
        << testing::PrintToString(arguments) << refused.end;
    EXPECT_NE(refused.err.find(arguments[0]), std::string::npos) << refused.err;
    EXPECT_FALSE(fs::exists(directory_ / "data")) << testing::PrintToString(arguments);
  }
  for (const char* size : {"2000000", "2048k", "2MB", "2MiB"}) {
    const temp_dir other;
    ingestd_process d(other.path(), {"--segment-size", size});
    EXPECT_TRUE(d.terminate().ok()) << d.log();
  }
}

TEST_F(ingestd_start, creates_the_directory) {
  const ingestd_process d(directory_ / "new" / "directory");
  wire w(d, "c");
  w.record(1, "x");
  w.wait_for_ack(1);
}

TEST_F(ingestd_start, after_many_kills_knows_everything_that_was_acknowledged) {
  const words tiny = {"--segment-size", "64K", "--max-record", "8K"};
  std::mt19937 random(1);
  std::uint64_t acknowledged = 0;
  for (int round = 0; round < 15; ++round) {
    ingestd_process d(directory_.path(), tiny);
    wire w(d, "c");
    ASSERT_GE(w.highest(), acknowledged);
    std::uint64_t next = w.highest() + 1;
    const std::uint64_t enough = w.highest() + 20 + random() % 60;
    // A few at a time, and some always on the way when the end comes.
    std::uint64_t sent = next - 1;
    while (acknowledged < enough) {
      std::string text;
      for (; sent < acknowledged + 40 || sent < next + 40; ++sent)
        text += std::to_string(sent + 1) + " " + std::string(random() % 2000, 'x') +
                std::to_string(sent + 1) + "\n";
      w.send(text);
      acknowledged = wire::number_of("ACK", w.line());
    }
    d.kill();
    // What was on the way back counts: the daemon had said it.
    while (const auto l = w.next_line())
      acknowledged = wire::number_of("ACK", *l);
  }
  const ingestd_process d(directory_.path(), tiny);
  EXPECT_GE(wire(d, "c").highest(), acknowledged);
  const words stored = payloads_of(directory_.path(), "c");
  ASSERT_GE(stored.size(), acknowledged);
  for (std::size_t i = 0; i < stored.size(); ++i)
    ASSERT_TRUE(stored[i].ends_with(std::to_string(i + 1))) << i;
}

// --- torn tails
// -----------------------------------------------------------------------------------

enum class damage { cut, unwritten, flipped };

class ingestd_recovery : public testing::Test {
 protected:
  static words arguments() { return {"--segment-size", "64K", "--max-record", "16K"}; }

  void copy(const fs::path& to) const {
    for (const auto& entry : fs::directory_iterator(directory_.path()))
      fs::copy(entry.path(), to);
  }

  static void change_byte(const fs::path& path, std::uint64_t position,
                          const std::function<char(char)>& change) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(position));
    const char c = change(static_cast<char>(file.get()));
    file.seekp(static_cast<std::streamoff>(position));
    file.put(c);
    file.close();
    if (!file) throw std::runtime_error("cannot change " + path.string());
  }

  temp_dir directory_;
};

class ingestd_torn_tail : public ingestd_recovery, public testing::WithParamInterface<damage> {};

TEST_P(ingestd_torn_tail, at_every_byte_of_the_last_record_costs_nothing_but_that_record) {
  const std::string last_payload = "the end";
  {
    ingestd_process d(directory_.path(), arguments());
    wire c(d, "c");
    wire other(d, "other");
    c.record(1, "first");
    c.wait_for_ack(1);
    other.record(1, "somebody else's");
    other.wait_for_ack(1);
    c.record(2, "second");
    c.wait_for_ack(2);
    c.record(3, last_payload);
    c.wait_for_ack(3);
    d.kill();
  }
  const auto records = stored_in(directory_.path());
  ASSERT_EQ(records.size(), 4U);
  ASSERT_EQ(records.back().payload, last_payload);
  const std::string segment = ingestd::segment_name(1);
  const std::uint64_t position = ingestd::first_record_position + records.back().log_offset;
  const std::uint64_t size = ingestd::encoded_size(1, last_payload.size());
  // No padding: every byte is one that counts.
  ASSERT_EQ(size, ingestd::record_header_size + 1 + last_payload.size());
  const std::string whole = support::read_file(directory_ / segment);

  // Each is a daemon that starts, which takes a sanitizer long.
  for (std::uint64_t k = 0; k < size; k += sanitized ? 7 : 1) {
    SCOPED_TRACE("byte " + std::to_string(k));
    const temp_dir damaged;
    copy(damaged.path());
    const fs::path file = damaged / segment;
    switch (GetParam()) {
    case damage::cut:
      support::truncate_file(file, position + k);
      break;
    case damage::unwritten:
      for (std::uint64_t i = k; i < size; ++i)
        change_byte(file, position + i, [](char) { return '\0'; });
      break;
    case damage::flipped:
      change_byte(file, position + k, [](char c) { return static_cast<char>(c ^ 0x40); });
      break;
    }
    {
      ingestd_process d(damaged.path(), arguments());
      wire c(d, "c");
      ASSERT_EQ(c.highest(), 2U) << d.log();
      wire other(d, "other");
      ASSERT_EQ(other.highest(), 1U) << d.log();
      wire tail(d);
      tail.send("TAIL 0\n");
      ASSERT_EQ(tail_line(tail.line()).rest, "c 1 first");
      ASSERT_EQ(tail_line(tail.line()).rest, "other 1 somebody else's");
      ASSERT_EQ(tail_line(tail.line()).rest, "c 2 second");
      c.record(3, "in its place");
      ASSERT_EQ(c.line(), "ACK 3");
      ASSERT_EQ(tail_line(tail.line()).rest, "c 3 in its place");

      const bool anything_left =
          GetParam() == damage::flipped ||
          whole.substr(position, k).find_first_not_of('\0') != std::string::npos;
      ASSERT_EQ(d.log().find("torn tail") != std::string::npos, anything_left) << d.log();
      d.kill();
    }
    ingestd_process again(damaged.path(), arguments());
    ASSERT_EQ(wire(again, "c").highest(), 3U);
    ASSERT_EQ(again.log().find("torn tail"), std::string::npos) << again.log();
    ASSERT_TRUE(again.terminate().ok());
    ASSERT_EQ(payloads_of(damaged.path(), "c"), (words{"first", "second", "in its place"}));
    ASSERT_EQ(payloads_of(damaged.path(), "other"), words{"somebody else's"});
  }
}

INSTANTIATE_TEST_SUITE_P(by, ingestd_torn_tail,
                         testing::Values(damage::cut, damage::unwritten, damage::flipped),
                         [](const auto& tested) {
                           return std::string(tested.param == damage::cut         ? "cut"
                                              : tested.param == damage::unwritten ? "unwritten"
                                                                                  : "flipped");
                         });

TEST_F(ingestd_recovery, cuts_a_torn_tail_that_has_whole_records_behind_it_and_keeps_a_copy) {
  {
    ingestd_process d(directory_.path(), arguments());
    wire c(d, "c");
    c.record(1, "acknowledged");
    c.wait_for_ack(1);
    // One batch: all of them were written when only the first record was durable.
    c.send("2 torn\n3 whole\n4 whole\n");
    c.wait_for_ack(4);
    d.kill();
  }
  const auto records = stored_in(directory_.path());
  ASSERT_EQ(records.size(), 4U);
  change_byte(directory_ / ingestd::segment_name(1),
              ingestd::first_record_position + records[1].log_offset + ingestd::record_header_size,
              [](char c) { return static_cast<char>(c ^ 1); });
  // Whether this is a torn tail depends on how the socket cut the batch: only if all were in one it
  // is.
  const bool one_batch = stored_in(directory_.path()).size() == 1;
  if (!one_batch) GTEST_SKIP() << "the records were not stored as one batch";
  ingestd_process d(directory_.path(), arguments());
  wire c(d, "c");
  EXPECT_EQ(c.highest(), 1U);
  EXPECT_NE(d.log().find("torn tail"), std::string::npos) << d.log();
  bool saved = false;
  for (const auto& entry : fs::directory_iterator(directory_.path()))
    saved = saved || entry.path().filename().string().starts_with("lost+cut-");
  EXPECT_TRUE(saved);
  c.send("2 new\n");
  c.wait_for_ack(2);
  EXPECT_TRUE(d.terminate().ok());
  EXPECT_EQ(payloads_of(directory_.path(), "c"), (words{"acknowledged", "new"}));
}

TEST_F(ingestd_recovery,
       refuses_to_start_when_acknowledged_records_are_damaged_and_changes_nothing) {
  {
    ingestd_process d(directory_.path(), arguments());
    wire c(d, "c");
    for (std::uint64_t i = 1; i <= 5; ++i) {
      c.record(i, "record " + std::to_string(i));
      c.wait_for_ack(i);
    }
    EXPECT_TRUE(d.terminate().ok());
  }
  const fs::path segment = directory_ / ingestd::segment_name(1);
  change_byte(segment, ingestd::first_record_position + ingestd::record_header_size + 3,
              [](char c) { return static_cast<char>(c ^ 1); });
  const std::string before = support::read_file(segment);
  const finished start(ingestd_command(directory_.path(), arguments(), "127.0.0.1:0"));
  EXPECT_TRUE(start.end.exited_with(3)) << start.end;
  EXPECT_EQ(start.out, "");
  EXPECT_NE(start.err.find("corrupt"), std::string::npos) << start.err;
  EXPECT_TRUE(support::read_file(segment) == before);
}

TEST_F(ingestd_recovery, says_what_it_found) {
  {
    ingestd_process d(directory_.path(), arguments());
    wire c(d, "c");
    c.send("1 one\n2 two\n3 three\n");
    c.wait_for_ack(3);
    d.kill();
  }
  const ingestd_process d(directory_.path(), arguments());
  EXPECT_NE(d.log().find("recovered 3 records of 1 clients"), std::string::npos) << d.log();
}

// --- segments that cannot be read
// -----------------------------------------------------------------

class ingestd_unreadable : public ingestd_recovery {
 protected:
  /// Stores some hundred KB in the first segment, and returns its path.
  fs::path fill(const fs::path& data) const {
    ingestd_process d(data, small_segments());
    wire w(d, "c");
    for (std::uint64_t i = 1; i <= 80; ++i)
      w.record(i, std::string(10000, 'x'));
    w.wait_for_ack(80);
    EXPECT_TRUE(d.terminate().ok()) << d.log();
    return data / ingestd::segment_name(1);
  }

  template <class Reader>
  static void expect_error_that_names(const fs::path& path, Reader read) {
    try {
      read();
      ADD_FAILURE() << "no error";
    } catch (const std::system_error& e) {
      EXPECT_NE(std::string(e.what()).find(path.string()), std::string::npos) << e.what();
    }
  }
};

TEST_F(ingestd_unreadable, that_are_cut_meanwhile_are_an_error) {
  const fs::path segment = fill(directory_.path());
  // In the middle of a page and between two; in the log, and in the zeros behind it.
  for (const std::uint64_t size : {600'001U, 614'400U, 1'000'001U}) {
    SCOPED_TRACE(size);
    const temp_dir other;
    copy(other.path());
    const fs::path cut = other / segment.filename().string();
    ingestd::log_reader reader(other.path());
    ASSERT_NE(reader.next(), nullptr);
    support::truncate_file(cut, size);
    expect_error_that_names(cut, [&] {
      while (reader.next() != nullptr) {
      }
    });
  }
  const temp_dir other;
  copy(other.path());
  ingestd::log_reader reader(other.path());
  support::truncate_file(other / segment.filename().string(), 50);
  expect_error_that_names(other / segment.filename().string(), [&] { reader.next(); });
}

TEST_F(ingestd_unreadable, that_are_cut_below_a_tail_end_the_tail_alone) {
  const words tiny = {"--segment-size", "64K", "--max-record", "16K"};
  ingestd_process d(directory_.path(), tiny);
  wire w(d, "c");
  for (std::uint64_t i = 1; i <= 60; ++i)
    w.record(i, std::string(10000, 'x'));
  w.wait_for_ack(60);
  support::truncate_file(directory_ / ingestd::segment_name(1), 8192);
  wire tail(d);
  tail.send("TAIL 0\n");
  const words answers = tail.lines_to_the_end();
  ASSERT_FALSE(answers.empty());
  EXPECT_TRUE(is_error(answers.back())) << answers.back().substr(0, 100);
  w.record(61, "undisturbed");
  w.wait_for_ack(61);
}

TEST_F(ingestd_unreadable, because_of_the_disk_are_an_error_and_nothing_is_changed) {
  const fs::path disk = directory_ / "disk";
  const fs::path image = directory_ / "image";
  fs::create_directory(disk);
  bool cut = false;
  const bool mounted = faults::on_loop_disk(image, disk, 48 << 20, [&] {
    const fs::path segment = fill(disk / "data");
    fs::remove(disk / "data" / ingestd::segment_name(2));
    cut = faults::cut_disk_under(image, segment, 400 << 10);
    if (!cut) return;
    support::write_file(directory_ / "text", "line\n");
    const finished check(
        {INGEST_PATH, "--verify", (disk / "data").string(), (directory_ / "text").string()});
    EXPECT_TRUE(check.end.exited_with(1)) << check.end << check.err;
    EXPECT_NE(check.err.find(segment.string() + ": cannot be read"), std::string::npos)
        << check.err;

    // Last, since what it writes may make the image longer again, with zeros.
    const finished start(ingestd_command(disk / "data", small_segments(), "127.0.0.1:0"));
    EXPECT_TRUE(start.end.exited_with(1)) << start.end << start.err;
    EXPECT_EQ(start.out, "");
    EXPECT_NE(start.err.find(segment.string() + ": cannot be read"), std::string::npos)
        << start.err;
    EXPECT_EQ(start.err.find("torn tail"), std::string::npos) << start.err;
    EXPECT_EQ(fs::file_size(segment), std::uint64_t{1} << 20);
  });
  if (!mounted || !cut) GTEST_SKIP() << "that takes root and a loop device";
}

// =================================================================================================
// Disks that misbehave
// =================================================================================================

class ingestd_full_disk : public testing::Test {
 protected:
  // Room for a few segments of this size, and for more once the ballast is gone.
  static words arguments() { return {"--segment-size", "512K", "--max-record", "64K"}; }
  static constexpr std::size_t disk_size = 6 << 20;
  static constexpr std::size_t ballast_size = 4 << 20;

  /// Runs `body(data, ballast)` on a small disk.
  void on_small_disk(const std::function<void(const fs::path&, const fs::path&)>& body) {
    const fs::path disk = where_ / "disk";
    fs::create_directory(disk);
    const bool mounted = faults::on_small_disk(disk, disk_size, [&] {
      const fs::path ballast = disk / "ballast";
      support::write_file(ballast, std::string(ballast_size, 'x'));
      body(disk / "data", ballast);
    });
    if (!mounted) GTEST_SKIP() << "no tmpfs can be mounted here: that takes root (CAP_SYS_ADMIN)";
  }

  temp_dir where_;
};

TEST_F(ingestd_full_disk, is_an_error_to_clients_and_is_survived) {
  on_small_disk([](const fs::path& data, const fs::path& ballast) {
    const std::string payload(50000, 'x');
    std::uint64_t acknowledged = 0;
    {
      ingestd_process d(data, arguments());
      {
        wire w(d, "c");
        for (std::uint64_t next = 1; next <= 200; ++next) {
          w.record(next, payload);
          const std::string answer = w.line();
          if (is_error(answer)) break;
          acknowledged = wire::number_of("ACK", answer);
          ASSERT_EQ(acknowledged, next);
        }
        ASSERT_GT(acknowledged, 5U);
        ASSERT_LT(acknowledged, 200U) << "the disk never got full";
        EXPECT_FALSE(w.next_line()) << "an ERR ends the connection";
      }
      EXPECT_NE(stats_of(d).at("problem"), "");

      // Acknowledged records are readable, through the daemon and without it.
      wire tail(d);
      tail.send("TAIL 0\n");
      for (std::uint64_t i = 1; i <= acknowledged; ++i)
        ASSERT_EQ(tail_line(tail.line()).rest, "c " + std::to_string(i) + " " + payload);
      EXPECT_EQ(payloads_of(data, "c").size(), acknowledged);

      // Others are told the same, as often as they ask.
      for (int i = 0; i < 3; ++i) {
        wire w(d, "c");
        EXPECT_EQ(w.highest(), acknowledged);
        w.record(acknowledged + 1, payload);
        EXPECT_TRUE(is_error(w.line()));
      }

      fs::remove(ballast);
      EXPECT_TRUE(becomes_true([&] {
        wire w(d, "c");
        EXPECT_EQ(w.highest(), acknowledged);
        w.record(acknowledged + 1, payload);
        const std::string answer = w.line();
        return !is_error(answer) && wire::number_of("ACK", answer) == ++acknowledged;
      }));
      EXPECT_EQ(stats_of(d).at("problem"), "");
      const child_end end = d.terminate();
      EXPECT_TRUE(end.ok()) << end << d.log();
    }
    const ingestd_process d(data, arguments());
    EXPECT_EQ(wire(d, "c").highest(), acknowledged);
    EXPECT_EQ(payloads_of(data, "c").size(), acknowledged);
  });
}

TEST_F(ingestd_full_disk, at_the_start_lets_clients_read_what_is_there) {
  on_small_disk([](const fs::path& data, const fs::path& ballast) {
    {
      ingestd_process d(data, arguments());
      wire w(d, "c");
      w.record(1, "x");
      w.wait_for_ack(1);
      d.kill();
    }
    // Not a byte is left.
    std::ofstream more(ballast, std::ios::app);
    while (more.write(std::string(4096, 'x').data(), 4096).flush()) {
    }
    more.close();
    ingestd_process d(data, arguments());
    EXPECT_EQ(wire(d, "c").highest(), 1U);
    wire tail(d);
    tail.send("TAIL 0\n");
    EXPECT_EQ(tail.line(), "0 c 1 x");
    EXPECT_TRUE(d.terminate().ok()) << d.log();
  });
}

TEST_F(ingestd_full_disk, makes_ingest_wait_until_there_is_room) {
  on_small_disk([this](const fs::path& data, const fs::path& ballast) {
    const fs::path text = where_ / "text";
    std::string lines;
    for (int i = 0; i < 100; ++i)
      lines += std::string(20000, static_cast<char>('a' + i % 26)) + "\n";
    support::write_file(text, lines);

    ingestd_process d(data, arguments());
    process client({INGEST_PATH, "--connect", d.address(), "--connections", "4", text.string()});
    ASSERT_TRUE(
        becomes_true([&] { return !stats_of(d).at("problem").get<std::string>().empty(); }));
    ASSERT_TRUE(becomes_true([&] { return client.err().find("ERR") != std::string::npos; }))
        << client.err();
    EXPECT_TRUE(client.running());
    fs::remove(ballast);
    const child_end end = client.wait();
    EXPECT_TRUE(end.ok()) << end << client.out() << client.err();
    const finished check(
        {INGEST_PATH, "--verify", data.string(), "--connections", "4", text.string()});
    EXPECT_TRUE(check.end.ok()) << check.out << check.err;
  });
}

// After a failed sync nobody knows what is on the disk: nothing of it may be acknowledged, then or
// later, and the segment may not be used again.
TEST(ingestd_failed_sync, is_an_error_to_clients_and_ends_the_segment) {
  if (!no_tracing().empty()) GTEST_SKIP() << no_tracing();
  const temp_dir directory;
  words expected;
  std::uint32_t segment = 0;
  const auto bytes_of_segment = [&] {
    return support::read_file(directory.path() / ingestd::segment_name(segment));
  };
  {
    ingestd_process d(directory.path(), small_segments() + words{"--backend", "thread_pool"});
    const auto append = [&](wire& w) {
      expected.push_back("record " + std::to_string(expected.size() + 1));
      w.record(expected.size(), expected.back());
      w.wait_for_ack(expected.size());
    };
    wire w(d, "c");
    append(w);
    append(w);
    segment = stored_in(directory.path()).back().segment;
    {
      tracer broken_disk(d.pid(), {"-e", "trace=msync,fdatasync,fsync", "-e",
                                   "inject=msync,fdatasync,fsync:error=EIO"});
      w.record(3, "not durable");
      const words answers = w.lines_to_the_end();
      ASSERT_EQ(answers.size(), 1U) << testing::PrintToString(answers);
      EXPECT_TRUE(answers[0].starts_with("ERR 3 ")) << answers[0];
      wire again(d, "c");
      EXPECT_EQ(again.highest(), 2U);
      EXPECT_GE(stats_of(d).at("sync_failures"), 1);
    }
    const std::string failed = bytes_of_segment();
    EXPECT_TRUE(becomes_true([&] {
      wire again(d, "c");
      EXPECT_EQ(again.highest(), expected.size());
      again.record(expected.size() + 1, "after it");
      const std::string answer = again.line();
      if (is_error(answer)) return false;
      EXPECT_EQ(answer, "ACK 3");
      return true;
    })) << d.log();
    expected.emplace_back("after it");
    wire later(d, "c");
    append(later);
    EXPECT_TRUE(support::same(bytes_of_segment(), failed))
        << "nothing is appended to it, not even in vain";
    const child_end end = d.terminate();
    EXPECT_TRUE(end.ok()) << end << d.log();
  }
  const auto check = [&] {
    EXPECT_EQ(payloads_of(directory.path(), "c"), expected);
    for (const auto& r : stored_in(directory.path()))
      EXPECT_EQ(r.segment > segment, r.sequence > 2) << r.payload;
  };
  check();
  ingestd_process d(directory.path(), small_segments());
  EXPECT_EQ(wire(d, "c").highest(), expected.size()) << d.log();
  EXPECT_TRUE(d.terminate().ok());
  check();
}

// --- what the kernel saw
// --------------------------------------------------------------------------

/// A system call as strace -f shows it; the lines are those of the trace where it began and where
/// it returned.
struct traced_call {
  std::string text;
  std::size_t began = 0;
  std::size_t returned = 0;

  bool is(std::string_view name) const { return text.starts_with(std::string(name) + "("); }
  bool starts_with_any(std::initializer_list<std::string_view> names) const {
    return std::any_of(names.begin(), names.end(),
                       [this](auto name) { return text.starts_with(name); });
  }
  bool contains(std::string_view what) const { return text.find(what) != std::string::npos; }
  bool succeeded() const { return text.ends_with(" = 0"); }
};

std::vector<traced_call> calls_in(const std::string& trace) {
  std::vector<traced_call> calls;
  std::map<std::string, std::size_t> unfinished;  // by thread
  std::istringstream in(trace);
  std::size_t number = 0;
  for (std::string line; std::getline(in, line); ++number) {
    const std::size_t space = line.find(' ');
    if (space == std::string::npos) continue;
    const std::string thread = line.substr(0, space);
    std::string text = line.substr(line.find_first_not_of(' ', space));
    constexpr std::string_view cut = " <unfinished ...>";
    constexpr std::string_view resumed = " resumed>";
    if (text.starts_with("<... ")) {
      const auto at = unfinished.find(thread);
      const std::size_t end = text.find(resumed);
      if (at == unfinished.end() || end == std::string::npos) continue;
      calls[at->second].text += text.substr(end + resumed.size());
      calls[at->second].returned = number;
      unfinished.erase(at);
    } else if (text.ends_with(cut)) {
      text.resize(text.size() - cut.size());
      unfinished[thread] = calls.size();
      calls.push_back({std::move(text), number, static_cast<std::size_t>(-1)});
    } else {
      calls.push_back({std::move(text), number, number});
    }
  }
  return calls;
}

/// Tells what file of a process is mapped at an address; empty if none.
std::string mapped_at(pid_t pid, std::uint64_t address) {
  std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
  for (std::string line; std::getline(maps, line);) {
    const std::uint64_t begin = std::stoull(line, nullptr, 16);
    const std::uint64_t end = std::stoull(line.substr(line.find('-') + 1), nullptr, 16);
    const std::size_t path = line.find('/');
    if (address >= begin && address < end)
      return path == std::string::npos ? "" : line.substr(path);
  }
  return {};
}

TEST(ingestd_strace, sees_a_completed_sync_between_a_records_store_and_its_acknowledgement) {
  if (!no_tracing().empty()) GTEST_SKIP() << no_tracing();
  const temp_dir directory;
  ingestd_process d(directory.path(), small_segments() + words{"--backend", "thread_pool"});
  wire w(d, "c");
  w.record(1, "so that the segment is in use");
  w.wait_for_ack(1);

  const std::string payload = "look-for-me-in-the-trace";
  std::vector<traced_call> calls;
  std::map<std::uint64_t, std::string> mapped;
  {
    tracer observer(d.pid(), {"-y", "-s", "512"});
    w.record(2, payload);
    w.wait_for_ack(2);
    const auto acknowledged = [&] {
      calls = calls_in(observer.trace());
      return std::any_of(calls.begin(), calls.end(), [](const traced_call& c) {
        return c.starts_with_any({"send", "write"}) && c.contains("ACK 2") &&
               c.returned != static_cast<std::size_t>(-1);
      });
    };
    ASSERT_TRUE(becomes_true(acknowledged)) << observer.trace();
    for (const auto& c : calls) {
      if (!c.is("msync")) continue;
      const std::uint64_t address = std::stoull(c.text.substr(c.text.find('(') + 1), nullptr, 16);
      mapped[address] = mapped_at(d.pid(), address);
    }
  }
  const auto position = [&](auto predicate) {
    const auto at = std::find_if(calls.begin(), calls.end(), predicate);
    return at == calls.end() ? nullptr : &*at;
  };
  const traced_call* arrival = position([&](const traced_call& c) {
    return c.starts_with_any({"recv", "read"}) && c.contains(payload);
  });
  const traced_call* store = position([&](const traced_call& c) {
    return c.starts_with_any({"pwrite", "write("}) && c.contains(payload);
  });
  const traced_call* ack = position([&](const traced_call& c) {
    return c.starts_with_any({"send", "write"}) && c.contains("ACK 2");
  });
  ASSERT_NE(arrival, nullptr);
  ASSERT_NE(ack, nullptr);
  // With a store into the mapping there is no call to see; it comes after the arrival in any case.
  const traced_call* stored = store != nullptr ? store : arrival;
  EXPECT_LE(arrival->returned, stored->began);
  EXPECT_LT(stored->returned, ack->began);

  const std::string segment = ingestd::segment_name(stored_in(directory.path()).back().segment);
  std::size_t syncs = 0;
  std::string seen;
  for (const auto& c : calls) {
    if (!c.starts_with_any({"msync(", "fdatasync(", "fsync("})) continue;
    seen += c.text + '\n';
    if (c.began <= stored->returned || c.returned >= ack->began || !c.succeeded()) continue;
    if (c.is("msync")) {
      const std::uint64_t address = std::stoull(c.text.substr(c.text.find('(') + 1), nullptr, 16);
      if (mapped[address].find(segment) != std::string::npos && c.contains("MS_SYNC")) ++syncs;
    } else if (c.contains(segment)) {
      ++syncs;
    }
  }
  EXPECT_GE(syncs, 1U) << "syncs in the trace:\n" << seen;
}

// =================================================================================================
// ingest
// =================================================================================================

/// Text as it is found in the world, and as it is not.
std::string odd_text() {
  std::mt19937 random(7);
  std::string text = "\n\nfirst\r\n\r\n  indented \t line\n";
  text += std::string("nul \0 inside\n", 13);
  for (int i = 0; i < 3000; ++i)
    text += "line " + std::to_string(i) + " " +
            std::string(random() % 120, static_cast<char>('a' + i % 26)) + "\n";
  text += std::string(30000, 'L') + "\n";                          // over several blocks
  text += std::string(4096 - text.size() % 4096 - 1, 'b') + "\n";  // ends where a block ends
  text += "starts where a block starts\n";
  text += "\xff\xfe not utf-8\n";
  text += "without a newline at the end";
  return text;
}

words lines_of(const std::string& text) {
  words lines;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

class ingest_input : public testing::Test {
 protected:
  std::vector<fs::path> write(const words& texts) {
    std::vector<fs::path> paths;
    for (const std::string& text : texts) {
      paths.push_back(directory_ / ("text-" + std::to_string(paths.size())));
      support::write_file(paths.back(), text);
    }
    return paths;
  }

  temp_dir directory_;
};

TEST_F(ingest_input, deals_every_line_to_one_client) {
  const words texts = {odd_text(), "", "one line", "\n", odd_text().substr(100), "a\nb\nc\n"};
  std::multiset<std::string> expected;
  for (const auto& text : texts)
    for (const auto& l : lines_of(text))
      expected.insert(l);
  const ingest::input in(write(texts));
  for (const std::uint32_t clients : {1U, 2U, 3U, 7U, 64U, 1000U}) {
    ingest::dealing deal;
    deal.clients = clients;
    std::multiset<std::string> dealt;
    for (std::uint32_t i = 0; i < clients; ++i) {
      ingest::line_cursor cursor(in, deal, i);
      std::pair<std::size_t, std::uint64_t> last{0, 0};
      while (const auto l = cursor.next()) {
        dealt.emplace(l->text);
        // In the order of the input.
        EXPECT_TRUE(dealt.size() == 1 || std::pair(l->file, l->offset) >= last);
        last = {l->file, l->offset};
      }
      EXPECT_FALSE(cursor.next());
    }
    EXPECT_TRUE(dealt == expected)
        << clients << " clients: " << dealt.size() << " of " << expected.size();
  }
}

TEST_F(ingest_input, spreads_lines_evenly) {
  std::string text;
  for (int i = 0; i < 20000; ++i)
    text += "line " + std::to_string(i) + "\n";
  const ingest::input in(write({text}));
  ingest::dealing deal;
  deal.clients = 8;
  for (std::uint32_t i = 0; i < deal.clients; ++i) {
    ingest::line_cursor cursor(in, deal, i);
    std::size_t count = 0;
    while (cursor.next())
      ++count;
    EXPECT_GT(count, 20000U / 8 / 2);
    EXPECT_LT(count, 20000U / 8 * 2);
  }
}

TEST_F(ingest_input, leaves_out_lines_that_are_too_long) {
  const ingest::input in(write({"12345\n123456\n1234\n"}));
  ingest::dealing deal;
  deal.clients = 1;
  deal.max_record = 5;
  ingest::line_cursor cursor(in, deal, 0);
  EXPECT_EQ(cursor.next()->text, "12345");
  EXPECT_EQ(cursor.next()->text, "1234");
  EXPECT_FALSE(cursor.next());
}

TEST_F(ingest_input, names_clients_by_content_and_by_how_it_is_dealt) {
  const auto paths = write({"a\nb\n", "a\nb\n", "a\nc\n"});
  const auto fingerprint = [&](const std::vector<std::size_t>& files) {
    std::vector<fs::path> chosen;
    chosen.reserve(files.size());
    for (const std::size_t f : files)
      chosen.push_back(paths[f]);
    return ingest::input(chosen).fingerprint();
  };
  EXPECT_EQ(fingerprint({0}), fingerprint({1}));
  EXPECT_NE(fingerprint({0}), fingerprint({2}));
  EXPECT_NE(fingerprint({0, 2}), fingerprint({2, 0}));
  EXPECT_NE(fingerprint({0}), fingerprint({0, 1}));

  const ingest::dealing deal;
  ingest::dealing other = deal;
  other.clients = 63;
  EXPECT_NE(deal.client_id(1, 0), other.client_id(1, 0));
  other = deal;
  other.max_record = 100;
  EXPECT_NE(deal.client_id(1, 0), other.client_id(1, 0));
  EXPECT_NE(deal.client_id(1, 0), deal.client_id(1, 1));
  EXPECT_NE(deal.client_id(1, 0), deal.client_id(2, 0));
  EXPECT_EQ(deal.client_id(1, 0), ingest::dealing().client_id(1, 0));
}

TEST(ingest_latency, percentiles_are_right_within_a_thirty_second) {
  ingest::latency_histogram histogram;
  EXPECT_EQ(histogram.percentile(0.5).count(), 0);
  std::mt19937_64 random(3);
  std::vector<std::int64_t> samples;
  for (int i = 0; i < 100000; ++i) {
    samples.push_back(static_cast<std::int64_t>(random() >> (12 + random() % 44)) / 1000 * 1000 +
                      1000);
    histogram.add(std::chrono::nanoseconds(samples.back()));
  }
  std::sort(samples.begin(), samples.end());
  EXPECT_EQ(histogram.count(), samples.size());
  EXPECT_EQ(histogram.max().count(), samples.back());
  for (const double share : {0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const auto rank = static_cast<std::size_t>(share * static_cast<double>(samples.size()));
    const auto exact = static_cast<double>(samples[std::max<std::size_t>(rank, 1) - 1]);
    const auto answer = static_cast<double>(histogram.percentile(share).count());
    EXPECT_GE(answer, exact);
    EXPECT_LE(answer, exact * (1 + 1.0 / 32) + 1000) << share;
  }
}

// --- verify, on logs made by hand
// -----------------------------------------------------------------

class ingest_verify : public testing::Test {
 protected:
  struct entry {
    std::uint32_t client;
    std::uint64_t sequence;
    std::string payload;
  };

  ingest_verify() {
    std::string text;
    for (int i = 0; i < 3000; ++i)
      text += "line " + std::to_string(i) + "\n";
    support::write_file(directory_ / "text", text);
    in_.emplace(std::vector<fs::path>{directory_ / "text"});
    deal_.clients = 3;
    for (std::uint32_t c = 0; c < deal_.clients; ++c) {
      ingest::line_cursor cursor(*in_, deal_, c);
      for (std::uint64_t s = 1; const auto l = cursor.next(); ++s)
        log_.push_back({c, s, std::string(l->text)});
    }
    fs::create_directory(data());
  }

  fs::path data() const { return directory_ / "data"; }
  std::string name(std::uint32_t client) const {
    return client < deal_.clients ? deal_.client_id(in_->fingerprint(), client) : "stranger";
  }

  ingest::verification verify() const {
    made_segment segment(1, 0, 1 << 20);
    for (const entry& e : log_) {
      const std::string client = name(e.client);
      segment.put({ingestd::record_type::record, client, e.sequence, 0, e.payload});
    }
    support::write_file(data() / ingestd::segment_name(1), segment.bytes());
    return ingest::verify_directory(data(), *in_, deal_);
  }

  static void expect(const ingest::verification& v, std::uint64_t lost, std::uint64_t corrupt,
                     std::uint64_t duplicate) {
    EXPECT_EQ(v.lost, lost);
    EXPECT_EQ(v.corrupt, corrupt);
    EXPECT_EQ(v.duplicate, duplicate);
    EXPECT_EQ(v.problems.empty(), lost + corrupt + duplicate == 0)
        << testing::PrintToString(v.problems);
  }

  temp_dir directory_;
  std::optional<ingest::input> in_;
  ingest::dealing deal_;
  std::vector<entry> log_;
};

TEST_F(ingest_verify, finds_nothing_wrong_with_a_whole_log) {
  const auto v = verify();
  expect(v, 0, 0, 0);
  EXPECT_EQ(v.expected, 3000U);
  EXPECT_EQ(v.found, 3000U);
  EXPECT_EQ(v.foreign, 0U);
}

TEST_F(ingest_verify, counts_lost_records) {
  log_.erase(log_.begin() + 10, log_.begin() + 13);
  log_.pop_back();
  expect(verify(), 4, 0, 0);
  log_.clear();
  expect(verify(), 3000, 0, 0);
}

TEST_F(ingest_verify, counts_changed_records) {
  log_[20].payload += '!';
  log_[30].payload = "";
  expect(verify(), 0, 2, 0);
}

TEST_F(ingest_verify, counts_duplicates) {
  log_.push_back(log_[5]);
  log_.push_back(log_[5]);
  log_.push_back(log_.front());
  expect(verify(), 0, 0, 3);
}

TEST_F(ingest_verify, counts_records_that_were_never_sent) {
  log_.push_back({0, 100000, "beyond the input"});
  log_.push_back({1, 0, "no sequence"});
  expect(verify(), 0, 2, 0);
}

TEST_F(ingest_verify, does_not_mind_the_order) {
  std::swap(log_[40], log_[45]);
  expect(verify(), 0, 0, 0);
  std::swap(log_[40].payload, log_[45].payload);
  expect(verify(), 0, 2, 0);
}

TEST_F(ingest_verify, reports_other_clients) {
  log_.push_back({99, 1, "what others do"});
  const auto v = verify();
  expect(v, 0, 0, 0);
  EXPECT_EQ(v.foreign, 1U);
  EXPECT_EQ(v.foreign_clients, 1U);
}

// --- the program
// ----------------------------------------------------------------------------------

class ingest_program : public testing::Test {
 protected:
  /// Many short lines.
  fs::path text(std::size_t lines) {
    std::string content;
    for (std::size_t i = 0; i < lines; ++i)
      content += "line " + std::to_string(i) + " of many\n";
    support::write_file(directory_ / "text", content);
    return directory_ / "text";
  }

  fs::path data() const { return directory_ / "data"; }

  words send_command(const std::string& address, const words& more) const {
    return words{INGEST_PATH, "--connect", address} + more;
  }

  finished verify(const words& more) const {
    return finished(words{INGEST_PATH, "--verify", data().string()} + more);
  }

  /// A daemon on a port that the kernel gives to no outgoing connection: a client that tries to
  /// reconnect to one of those while nobody listens can end up connected to itself.
  std::unique_ptr<ingestd_process>
  daemon_on_quiet_port(const words& arguments = small_segments()) const {
    std::mt19937 random(std::random_device{}());
    for (int attempt = 0;; ++attempt) {
      try {
        const auto port = static_cast<std::uint16_t>(20000 + random() % 10000);
        return std::make_unique<ingestd_process>(data(), arguments, ingestd_process::on_port(port));
      } catch (const std::runtime_error&) {
        if (attempt == 20) throw;
      }
    }
  }

  static void wait_for_records(const ingestd_process& d, std::uint64_t count) {
    if (!becomes_true([&] { return stats_of(d).at("records").get<std::uint64_t>() >= count; }))
      throw std::runtime_error("the records do not come");
  }

  nlohmann::json json() const {
    return nlohmann::json::parse(support::read_file(directory_ / "json"));
  }
  std::string json_path() const { return (directory_ / "json").string(); }

  temp_dir directory_;
};

TEST_F(ingest_program, sends_the_lines_of_files) {
  support::write_file(directory_ / "odd", odd_text());
  support::write_file(directory_ / "empty", "");
  const words files = {(directory_ / "odd").string(), (directory_ / "empty").string(),
                       text(5000).string()};
  ingestd_process d(data());
  const finished sent(
      send_command(d.address(), words{"--json", json_path(), "--connections", "7"} + files));
  EXPECT_TRUE(sent.end.ok()) << sent.out << sent.err;
  const std::size_t count = lines_of(odd_text()).size() + 5000;
  EXPECT_EQ(json().at("records"), count);
  EXPECT_EQ(json().at("complete"), true);
  EXPECT_GT(json().at("ack_latency_ms").at("max"), 0);
  EXPECT_GE(json().at("ack_latency_ms").at("max"), json().at("ack_latency_ms").at("p50"));
  EXPECT_NE(sent.out.find("100.0%"), std::string::npos) << sent.out;
  EXPECT_EQ(sent.out.find('\r'), std::string::npos) << "no bar where there is no terminal";

  std::multiset<std::string> expected;
  for (const auto& l : lines_of(odd_text() + "\n" + support::read_file(directory_ / "text")))
    expected.insert(l);
  std::multiset<std::string> stored;
  for (const auto& r : stored_in(data()))
    stored.insert(r.payload);
  EXPECT_TRUE(stored == expected);

  const finished check = verify(words{"--connections", "7"} + files);
  EXPECT_TRUE(check.end.ok()) << check.out << check.err;
  EXPECT_NE(check.out.find("lost 0, corrupt 0, duplicate 0"), std::string::npos) << check.out;

  // Other numbers of connections are other clients: to them everything is missing.
  const finished other = verify(words{"--connections", "8", "--json", json_path()} + files);
  EXPECT_TRUE(other.end.exited_with(1)) << other.end;
  EXPECT_EQ(json().at("lost"), count);
  EXPECT_EQ(json().at("foreign"), count);
}

TEST_F(ingest_program, sends_lines_of_many_megabytes_from_where_they_are_mapped) {
  std::string content;
  for (int i = 0; i < 4; ++i)
    content.append(10'000'000, static_cast<char>('a' + i)).append("\nshort\n");
  support::write_file(directory_ / "text", content);
  const words arguments = {"--max-record", "16M", "--connections", "2",
                           (directory_ / "text").string()};
  ingestd_process d(data(), {"--segment-size", "32M", "--max-record", "16M"});
  const finished sent(send_command(d.address(), arguments));
  EXPECT_TRUE(sent.end.ok()) << sent.out << sent.err;
  const finished check = verify(arguments);
  EXPECT_TRUE(check.end.ok()) << check.out << check.err;
}

TEST_F(ingest_program, has_nothing_to_do_the_second_time) {
  const std::string file = text(1000).string();
  ingestd_process d(data());
  ASSERT_TRUE(finished(send_command(d.address(), {file})).end.ok());
  const finished again(send_command(d.address(), {"--json", json_path(), file}));
  EXPECT_TRUE(again.end.ok()) << again.err;
  EXPECT_EQ(json().at("records"), 0);
  EXPECT_EQ(json().at("already_durable"), 1000);
  EXPECT_TRUE(verify({file}).end.ok());
}

TEST_F(ingest_program, leaves_out_what_is_too_long_and_says_so) {
  support::write_file(directory_ / "text", "short\n" + std::string(70000, 'x') + "\nshort too\n");
  const words arguments = {"--max-record", "64K", "--json", json_path(),
                           (directory_ / "text").string()};
  ingestd_process d(data());
  const finished sent(send_command(d.address(), arguments));
  EXPECT_TRUE(sent.end.exited_with(1)) << sent.end;
  EXPECT_NE(sent.err.find("byte 6"), std::string::npos) << sent.err;
  EXPECT_EQ(json().at("records"), 2);
  EXPECT_EQ(json().at("too_long"), 1);
  const finished check = verify(arguments);
  EXPECT_TRUE(check.end.ok()) << check.out << check.err;
  EXPECT_EQ(json().at("too_long"), 1);
}

TEST_F(ingest_program, goes_on_where_it_was_when_the_daemon_was_killed) {
  constexpr std::size_t count = much;
  const words arguments = {"--connections", "4", "--window", "4", text(count).string()};
  auto d = daemon_on_quiet_port();
  process client(send_command(d->address(), words{"--json", json_path()} + arguments));
  const std::string address = d->address();
  for (const std::size_t part : {std::size_t{4}, std::size_t{2}}) {
    wait_for_records(*d, count / part);
    d->kill();
    ASSERT_TRUE(client.running()) << "the input is too small";
    d = std::make_unique<ingestd_process>(data(), small_segments(), address);
  }
  const child_end end = client.wait();
  EXPECT_TRUE(end.ok()) << end << client.out() << client.err();
  EXPECT_EQ(json().at("records"), count);
  EXPECT_GE(json().at("reconnects"), 4);
  EXPECT_TRUE(d->terminate().ok()) << d->log();
  const finished check = verify(arguments);
  EXPECT_TRUE(check.end.ok()) << check.out << check.err;
  EXPECT_NE(check.out.find("lost 0, corrupt 0, duplicate 0"), std::string::npos) << check.out;
}

TEST_F(ingest_program, goes_on_where_it_was_when_it_was_killed_itself) {
  constexpr std::size_t count = much;
  const words arguments = {"--connections", "4", "--window", "4", text(count).string()};
  ingestd_process d(data());
  {
    process client(send_command(d.address(), arguments));
    wait_for_records(d, count / 4);
    ASSERT_TRUE(client.running()) << "the input is too small";
    static_cast<void>(client.kill());
  }
  const finished again(send_command(d.address(), words{"--json", json_path()} + arguments));
  EXPECT_TRUE(again.end.ok()) << again.out << again.err;
  EXPECT_GE(json().at("already_durable"), count / 4);
  EXPECT_EQ(json().at("already_durable").get<std::size_t>() +
                json().at("records").get<std::size_t>(),
            count);
  const finished check = verify(arguments);
  EXPECT_TRUE(check.end.ok()) << check.out << check.err;
}

TEST_F(ingest_program, ends_when_it_is_interrupted_and_can_be_started_again) {
  constexpr std::size_t count = much;
  const words arguments = {"--connections", "4", "--window", "4", text(count).string()};
  const ingestd_process d(data());
  process client(send_command(d.address(), words{"--json", json_path()} + arguments));
  wait_for_records(d, count / 4);
  client.signal(SIGINT);
  const child_end end = client.wait();
  EXPECT_TRUE(end.exited_with(1)) << end;
  EXPECT_NE(client.err().find("interrupted"), std::string::npos) << client.err();
  EXPECT_EQ(json().at("complete"), false);
  EXPECT_GE(json().at("records"), count / 4 - 16);
  EXPECT_TRUE(finished(send_command(d.address(), arguments)).end.ok());
  EXPECT_TRUE(verify(arguments).end.ok());
}

TEST_F(ingest_program, goes_on_when_the_daemon_is_replaced_in_an_orderly_way) {
  constexpr std::size_t count = much;
  const words arguments = {"--connections", "4", "--window", "4", text(count).string()};
  auto d = daemon_on_quiet_port();
  process client(send_command(d->address(), arguments));
  const std::string address = d->address();
  wait_for_records(*d, count / 3);
  EXPECT_TRUE(d->terminate().ok()) << d->log();
  ASSERT_TRUE(client.running()) << "the input is too small";
  d = std::make_unique<ingestd_process>(data(), small_segments(), address);
  const child_end end = client.wait();
  EXPECT_TRUE(end.ok()) << end << client.out() << client.err();
  EXPECT_TRUE(verify(arguments).end.ok());
}

TEST_F(ingest_program, notices_that_acknowledged_records_are_gone) {
  const words arguments = {"--connections", "2", "--window", "4", text(much).string()};
  auto d = daemon_on_quiet_port();
  process client(send_command(d->address(), arguments));
  const std::string address = d->address();
  wait_for_records(*d, 500);
  d->kill();
  ASSERT_TRUE(client.running()) << "the input is too small";
  fs::remove_all(data());
  d = std::make_unique<ingestd_process>(data(), small_segments(), address);
  const child_end end = client.wait();
  EXPECT_TRUE(end.exited_with(1)) << end;
  EXPECT_NE(client.err().find("the server acknowledged"), std::string::npos) << client.err();
}

TEST_F(ingest_program, says_that_its_input_was_cut_meanwhile) {
  constexpr std::size_t count = much;
  const fs::path file = text(count);
  const ingestd_process d(data());
  process client(send_command(d.address(), {"--connections", "4", "--window", "4", file.string()}));
  wait_for_records(d, count / 4);
  support::truncate_file(file, 10);
  const child_end end = client.wait();
  EXPECT_TRUE(end.exited_with(1)) << end << client.err();
  EXPECT_NE(client.err().find("cut short"), std::string::npos) << client.err();
}

TEST_F(ingest_program, gives_up_when_there_is_no_progress) {
  const std::string file = text(10).string();
  std::uint16_t port = 0;
  {
    auto d = daemon_on_quiet_port();
    port = d->port();
  }
  const auto begin = clock::now();
  const finished sent(send_command(ingestd_process::on_port(port),
                                   {"--retry-for", "1", "--json", json_path(), file}));
  EXPECT_TRUE(sent.end.exited_with(1)) << sent.end;
  EXPECT_GE(clock::now() - begin, 1s);
  EXPECT_NE(sent.err.find("gave up"), std::string::npos) << sent.err;
  EXPECT_NE(sent.err.find("refused"), std::string::npos) << sent.err;
  EXPECT_EQ(json().at("complete"), false);
}

TEST_F(ingest_program, gives_up_on_a_daemon_that_takes_only_shorter_records) {
  support::write_file(directory_ / "text", std::string(70000, 'x') + "\n");
  ingestd_process d(data());
  const finished sent(
      send_command(d.address(), {"--retry-for", "1", (directory_ / "text").string()}));
  EXPECT_TRUE(sent.end.exited_with(1)) << sent.end;
  EXPECT_NE(sent.err.find("ERR 1 "), std::string::npos) << sent.err;
}

TEST_F(ingest_program, prints_stats) {
  ingestd_process d(data());
  const finished stats({INGEST_PATH, "--stats", d.address()});
  EXPECT_TRUE(stats.end.ok()) << stats.err;
  EXPECT_EQ(nlohmann::json::parse(stats.out).at("records"), 0);
  EXPECT_EQ(std::count(stats.out.begin(), stats.out.end(), '\n'), 1);
}

TEST_F(ingest_program, refuses_what_makes_no_sense) {
  const std::string file = text(1).string();
  for (const words& arguments : std::vector<words>{
           {},
           {"--connect", "127.0.0.1:1"},
           {"--connect", "nonsense", file},
           {"--connect", "127.0.0.1:1", "--connections", "0", file},
           {"--connect", "127.0.0.1:1", "--window", "0", file},
           {"--connect", "127.0.0.1:1", "--max-record", "-1", file},
           {"--connect", "127.0.0.1:1", "--retry-for", "-1", file},
           {"--connect", "127.0.0.1:1", "--client-prefix", "two words", file},
           {"--connect", "127.0.0.1:1", "/nonexistent/file"},
           {"--connect", "127.0.0.1:1", "/"},
           {"--connect", "127.0.0.1:1", "--verify", "/tmp", file},
           {"--verify", "/nonexistent/directory", file},
           {"--stats", "nonsense"},
       }) {
    const finished refused(words{INGEST_PATH} + arguments, 10s);
    EXPECT_FALSE(refused.end.ok()) << testing::PrintToString(arguments);
    EXPECT_TRUE(refused.end.signal == 0) << testing::PrintToString(arguments);
    EXPECT_FALSE(refused.err.empty()) << testing::PrintToString(arguments);
  }
}

}  // namespace
