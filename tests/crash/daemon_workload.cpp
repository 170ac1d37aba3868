#include "daemon_workload.hpp"

#include "../ingestd_harness.hpp"

#include "reader.hpp"
#include "recovery.hpp"

#include <algorithm>
#include <exception>
#include <optional>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>

namespace crash {

namespace {

std::string id_of(std::size_t client) {
  return "meter-" + std::to_string(client);
}

// Every record can be told from every other.
std::string payload_of(std::size_t client, std::uint64_t sequence) {
  std::mt19937_64 random(client * 1'000'003 + sequence);
  std::string text = id_of(client).append(":").append(std::to_string(sequence)).append(":");
  const std::size_t length = random() % 8 == 0 ? 6000 : random() % 400;
  while (text.size() < length)
    text.push_back(static_cast<char>('!' + random() % 90));
  return text;
}

harness::words options(const std::string& engine) {
  // Small segments: going on to the next one is part of it.
  return {"--segment-size", "256K", "--max-record", "16K", "--backend", engine};
}

// One client, for a number of batches.
void send_batches(const harness::ingestd_process& daemon, std::size_t client,
                  const daemon_workload& work, std::size_t rounds, receipt_book& book) {
  std::mt19937_64 random(work.seed * 100 + client);
  harness::wire w(daemon, id_of(client));
  std::uint64_t sequence = w.highest();
  if (sequence != 0) book.add({client, sequence});
  for (std::size_t round = 0; round < rounds; ++round) {
    std::string batch;
    for (auto n = random() % 16 + 1; n != 0; --n) {
      ++sequence;
      batch.append(std::to_string(sequence)).append(" ");
      batch.append(payload_of(client, sequence)).append("\n");
    }
    if (work.hasty) book.add({client, sequence});
    w.send(batch);
    for (std::uint64_t acknowledged = 0; acknowledged != sequence;) {
      acknowledged = harness::wire::number_of("ACK", w.line());
      if (!work.hasty) book.add({client, acknowledged});
    }
  }
}

void all_clients(const harness::ingestd_process& daemon, const daemon_workload& work,
                 receipt_book& book) {
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::exception_ptr failure;
  for (std::size_t client = 0; client < daemon_workload::clients; ++client)
    threads.emplace_back([&, client] {
      try {
        send_batches(daemon, client, work, work.rounds / 2, book);
      } catch (...) {
        const std::lock_guard lock(mutex);
        failure = std::current_exception();
      }
    });
  for (std::thread& t : threads)
    t.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

void receipt_book::add(receipt r) {
  std::uint64_t number = 0;
  {
    const std::lock_guard lock(mutex_);
    number = receipts_.size();
    receipts_.push_back(r);
  }
  device_.mark(number);
}

void daemon_workload::run(const std::filesystem::path& directory, receipt_book& book) const {
  for (int life = 0; life < 2; ++life) {
    harness::ingestd_process daemon(directory, options(engine));
    all_clients(daemon, *this, book);
    daemon.kill();
  }
}

void daemon_expectations::apply(const receipt& r) {
  std::uint64_t& known = acknowledged_[r.client];
  known = std::max(known, r.sequence);
}

std::vector<std::string> daemon_expectations::compare(const std::filesystem::path& directory,
                                                      bool answers) const {
  if (acknowledged_.empty() && !fs::exists(directory)) return {};
  std::vector<std::string> problems;
  {
    const ingestd::directory_lock lock(directory);
    static_cast<void>(ingestd::recover(directory));
  }
  std::map<std::string, std::uint64_t, std::less<>> stored;
  const auto summary = ingestd::for_each_record(directory, [&](const ingestd::record_view& r) {
    const std::string client(r.client);
    if (r.sequence != ++stored[client])
      problems.push_back(client + ": sequence " + std::to_string(r.sequence) + " instead of " +
                         std::to_string(stored[client]));
    for (std::size_t c = 0; c < daemon_workload::clients; ++c)
      if (client == id_of(c) && r.payload != payload_of(c, r.sequence))
        problems.push_back(client + ": sequence " + std::to_string(r.sequence) +
                           " is not what was sent");
  });
  if (summary.corrupt != 0) problems.push_back("corrupt: " + summary.messages.front());
  for (const auto& [client, sequence] : acknowledged_)
    if (stored[id_of(client)] < sequence)
      problems.push_back(id_of(client) + ": acknowledged up to " + std::to_string(sequence) +
                         ", stored up to " + std::to_string(stored[id_of(client)]));
  if (!answers) return problems;

  const harness::ingestd_process daemon(directory, options("automatic"));
  for (const auto& [client, sequence] : acknowledged_)
    if (const harness::wire w(daemon, id_of(client)); w.highest() != stored[id_of(client)])
      problems.push_back(id_of(client) + ": HELLO says " + std::to_string(w.highest()) +
                         ", stored up to " + std::to_string(stored[id_of(client)]));
  return problems;
}

}  // namespace crash
