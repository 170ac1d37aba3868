// Every interleaving of the flush protocol in small worlds, and the wrong orders that it must not
// have. What is modelled, and what not: docs/dirty-tracking.md.

#include "dirty_protocol.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <iostream>
#include <string>

namespace {

using model::both_pages;
using model::dirty_protocol;
using model::flush_plan;
using model::outcome;
using model::page_0;
using model::page_1;
using model::rules;
using model::scenario;

constexpr std::size_t most_states = 4'000'000;
constexpr flush_plan whole{.whole = true, .pages = both_pages};
constexpr flush_plan range_0{.whole = false, .pages = page_0};
constexpr flush_plan range_1{.whole = false, .pages = page_1};
constexpr flush_plan range_both{.whole = false, .pages = both_pages};

outcome explore(const scenario& what, const rules& how) {
  const auto begin = std::chrono::steady_clock::now();
  const dirty_protocol protocol(what, how);
  outcome result = model::search<dirty_protocol>(protocol).run(most_states);
  const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::steady_clock::now() - begin);
  std::cout << result.states << " states, " << result.transitions << " steps, " << took.count()
            << " ms\n";
  testing::Test::RecordProperty("states", std::to_string(result.states));
  return result;
}

void print(const outcome& result) {
  std::cout << "  " << result.violation << ":\n";
  for (const std::string& step : result.trace)
    std::cout << "    " << step << '\n';
}

void expect_safe(const scenario& what, const rules& how = {}) {
  const outcome result = explore(what, how);
  EXPECT_EQ(result.violation, "");
  if (!result.violation.empty()) return print(result);
  EXPECT_TRUE(result.complete) << "more states than the test has patience for";
  EXPECT_GT(result.endings, 0U);
}

void expect_caught(const scenario& what, const rules& how,
                   const std::string& violation = "is not durable") {
  // The same world must be safe without the mutation, or the mutation would prove nothing.
  expect_safe(what);
  const outcome result = explore(what, how);
  EXPECT_NE(result.violation.find(violation), std::string::npos) << result.violation;
  print(result);
}

// --- the protocol as it must be
// ---------------------------------------------------------------------------------------------------

TEST(dirty_protocol, two_writers_a_pin_and_two_flushes) {
  expect_safe(
      {.writers = {{page_0}, {page_0}}, .pin_stores = {page_1}, .flushes = {whole, range_both}});
}

TEST(dirty_protocol, two_writers_a_pin_and_two_flushes_of_one_lane) {
  expect_safe({.writers = {{page_0}, {page_1}},
               .pin_stores = {page_0},
               .pin_pages = page_0,
               .flushes = {range_0, range_both}});
}

TEST(dirty_protocol, two_writers_a_pin_and_two_flushes_while_a_write_fails) {
  expect_safe({.writers = {{page_0}, {page_1}},
               .pin_stores = {page_0},
               .pin_pages = page_0,
               .flushes = {whole, range_0},
               .failures = 1});
}

TEST(dirty_protocol, pages_that_are_written_again_and_three_flushes) {
  expect_safe({.writers = {{page_0, page_1}, {page_1}}, .flushes = {range_0, range_both, whole}});
}

TEST(dirty_protocol, two_waiters_in_each_lane_and_failures) {
  expect_safe(
      {.writers = {{page_0}, {page_1}}, .flushes = {range_0, range_both, whole}, .failures = 2});
  expect_safe({.writers = {{page_0}, {page_0}}, .flushes = {whole, whole, range_0}, .failures = 2});
}

TEST(dirty_protocol, the_kernel_writes_back_by_itself_and_fails) {
  expect_safe({.writers = {{page_0}, {page_1}},
               .flushes = {whole, range_both},
               .failures = 2,
               .write_back = true});
}

TEST(dirty_protocol, ring_writes) {
  expect_safe({.ring_writers = {{page_0, page_1}, {page_0}}, .flushes = {whole, range_both}});
  expect_safe({.writers = {{page_0}},
               .ring_writers = {{page_0}},
               .flushes = {whole, range_0, range_both},
               .failures = 1});
}

TEST(dirty_protocol, without_a_heavy_barrier_every_write_sets_its_bit) {
  expect_safe({.writers = {{page_0}, {page_0}},
               .pin_stores = {page_0},
               .pin_pages = page_0,
               .flushes = {whole, range_0}},
              {.has_barrier = false, .barrier = false});
}

TEST(dirty_protocol, an_error_that_was_cleared) {
  expect_safe({.writers = {{page_0}},
               .pin_stores = {page_0},
               .pin_pages = page_0,
               .flushes = {whole, range_0},
               .failures = 1,
               .write_back = true,
               .clears = true});
  expect_safe({.writers = {{page_0}, {page_1}},
               .flushes = {range_0, range_1, whole},
               .failures = 1,
               .write_back = true,
               .clears = true});
}

TEST(dirty_protocol, one_open_file_description_if_success_waits_for_the_sync_beside) {
  const rules how{.own_description = false, .settle_beside_first = true};
  expect_safe({.writers = {{page_0}, {page_1}},
               .flushes = {whole, range_0, range_1},
               .failures = 2,
               .write_back = true},
              how);
  expect_safe(
      {.writers = {{page_0}, {page_1}}, .flushes = {range_0, range_both, whole}, .failures = 2},
      how);
}

// --- wrong orders
// ---------------------------------------------------------------------------------------------------

TEST(dirty_protocol_mutant, bit_before_store) {
  expect_caught({.writers = {{page_0}}, .flushes = {whole, range_0}}, {.store_first = false});
}

TEST(dirty_protocol_mutant, bits_taken_without_a_claim) {
  expect_caught({.writers = {{page_0}}, .flushes = {whole, range_0}}, {.publish_claim = false});
}

TEST(dirty_protocol_mutant, set_bit_left_alone_without_a_barrier) {
  // The second store is still in the store buffer when its thread sees the bit of the first.
  expect_caught({.writers = {{page_0}, {page_0}}, .flushes = {whole, range_0}}, {.barrier = false});
}

TEST(dirty_protocol_mutant, pin_that_leaves_a_set_bit_alone_without_a_barrier) {
  expect_caught({.writers = {{page_0}},
                 .pin_stores = {page_0},
                 .pin_pages = page_0,
                 .flushes = {whole, range_0}},
                {.barrier = false});
}

TEST(dirty_protocol_mutant, pin_unregisters_before_it_marks) {
  expect_caught({.pin_stores = {page_0}, .pin_pages = page_0, .flushes = {range_0}},
                {.mark_first = false});
}

TEST(dirty_protocol_mutant, pins_read_after_bits) {
  expect_caught({.pin_stores = {page_0}, .pin_pages = page_0, .flushes = {range_0}},
                {.pins_before_bits = false});
}

TEST(dirty_protocol_mutant, ring_write_delivered_before_it_marks) {
  expect_caught({.ring_writers = {{page_0}}, .flushes = {range_0}}, {.mark_first = false});
}

TEST(dirty_protocol_mutant, claim_dropped_before_the_sync_is_over) {
  expect_caught({.writers = {{page_0}}, .flushes = {whole, range_0}}, {.keep_claim = false});
}

TEST(dirty_protocol_mutant, success_at_the_start) {
  expect_caught({.writers = {{page_0}}, .flushes = {range_0}}, {.success_at_end = false});
}

TEST(dirty_protocol_mutant, flush_rides_on_the_sync_in_flight) {
  expect_caught({.writers = {{page_0, page_0}}, .flushes = {range_0, range_0}},
                {.join_next = false});
}

TEST(dirty_protocol_mutant, failure_not_remembered) {
  expect_caught({.writers = {{page_0}}, .flushes = {range_0, range_0}, .failures = 1},
                {.poison = false});
}

// The claim does not hold for a page that was written since; that is for the flush which has the
// new bit to wait for. If the bit comes up between the look at the bits and the look at the claim,
// neither is seen.
TEST(dirty_protocol_mutant, claims_read_after_bits) {
  expect_caught({.writers = {{page_0}, {page_0}}, .flushes = {whole, range_0}},
                {.claims_before_bits = false});
}

// The same when a flush that found nothing but two claims goes from one to the other.
TEST(dirty_protocol_mutant, handed_over_only_if_nothing_was_written_since) {
  expect_caught({.writers = {{page_0, page_1}, {page_1}}, .flushes = {range_0, whole, range_both}},
                {.hand_over_by_claim = false});
}

// The sync that returns first takes the error, the other one returns success and may be settled
// first.
TEST(dirty_protocol_mutant, both_lanes_through_one_open_file_description) {
  expect_caught({.writers = {{page_0}, {page_1}}, .flushes = {whole, range_0}, .failures = 1},
                {.own_description = false});
}

// Bits that were set before the failure do not say that the page was written again after it.
TEST(dirty_protocol_mutant, bits_trusted_after_an_error_was_cleared) {
  expect_caught({.writers = {{page_0}, {page_0}},
                 .flushes = {range_0, range_0},
                 .failures = 1,
                 .write_back = true,
                 .clears = true},
                {.clear_distrusts = false});
  expect_caught({.writers = {{page_0}, {page_1}},
                 .flushes = {range_0, range_1},
                 .failures = 1,
                 .write_back = true,
                 .clears = true},
                {.clear_distrusts = false});
}

TEST(dirty_protocol_mutant, pin_trusted_after_an_error_was_cleared) {
  expect_caught({.pin_stores = {page_0},
                 .pin_pages = page_0,
                 .flushes = {range_0, range_0},
                 .failures = 1,
                 .clears = true},
                {.clear_distrusts = false});
}

}  // namespace
