#include <mapio/error.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <set>
#include <string>
#include <system_error>
#include <type_traits>
#include <vector>

namespace {

using mapio::errc;

struct expectation {
  errc value;
  std::errc condition;
};

// Every value there is, with the condition that its documentation promises.
const std::vector<expectation> all_of_them{
    {errc::not_open, std::errc::bad_file_descriptor},
    {errc::out_of_range, std::errc::invalid_argument},
    {errc::read_only, std::errc::permission_denied},
    {errc::misaligned, std::errc::invalid_argument},
    {errc::pinned, std::errc::device_or_resource_busy},
    {errc::page_fault, std::errc::io_error},
    {errc::flush_failed, std::errc::io_error},
    {errc::unsupported, std::errc::operation_not_supported},
};

static_assert(std::is_error_code_enum_v<errc>);
static_assert(!std::is_error_condition_enum_v<errc>);
static_assert(std::is_convertible_v<errc, std::error_code>);
static_assert(noexcept(mapio::error_category()));
static_assert(noexcept(make_error_code(errc::pinned)));

TEST(error_category, is_named_mapio) {
  EXPECT_STREQ(mapio::error_category().name(), "mapio");
}

TEST(error_category, is_one_object) {
  EXPECT_EQ(&mapio::error_category(), &mapio::error_category());
  EXPECT_NE(mapio::error_category(), std::system_category());
  EXPECT_NE(mapio::error_category(), std::generic_category());
}

TEST(error_code, of_an_errc_carries_value_and_category) {
  for (const auto& [value, condition] : all_of_them) {
    const std::error_code code = value;
    EXPECT_EQ(code.value(), static_cast<int>(value));
    EXPECT_EQ(&code.category(), &mapio::error_category());
    EXPECT_EQ(code, make_error_code(value));
  }
}

TEST(error_code, of_every_errc_is_an_error) {
  for (const auto& [value, condition] : all_of_them)
    EXPECT_TRUE(static_cast<bool>(std::error_code(value))) << static_cast<int>(value);
}

TEST(error_code, matches_the_promised_condition_and_no_other) {
  for (const auto& [value, condition] : all_of_them) {
    const std::error_code code = value;
    EXPECT_EQ(code, condition) << code.message();
    EXPECT_EQ(code.default_error_condition(), std::make_error_condition(condition))
        << code.message();
    for (const auto& [other_value, other_condition] : all_of_them) {
      if (other_condition == condition) continue;
      EXPECT_NE(code, other_condition) << code.message();
    }
  }
}

TEST(error_code, of_different_values_differ) {
  for (const auto& a : all_of_them)
    for (const auto& b : all_of_them)
      EXPECT_EQ(std::error_code(a.value) == std::error_code(b.value), a.value == b.value);
}

TEST(error_code, is_no_code_of_the_operating_system) {
  // The same number in another category is another error.
  EXPECT_NE(std::error_code(errc::not_open), std::error_code(1, std::system_category()));
  EXPECT_NE(std::error_code(EBADF, std::system_category()), std::error_code(errc::not_open));
}

TEST(error_message, says_something_else_for_every_value) {
  std::set<std::string> messages;
  for (const auto& [value, condition] : all_of_them) {
    const std::string text = std::error_code(value).message();
    EXPECT_FALSE(text.empty()) << static_cast<int>(value);
    EXPECT_TRUE(messages.insert(text).second) << text;
  }
}

TEST(error_message, exists_for_a_value_that_nobody_knows) {
  const std::error_code unknown(12345, mapio::error_category());
  const std::string text = unknown.message();
  EXPECT_FALSE(text.empty());
  for (const auto& [value, condition] : all_of_them) {
    EXPECT_NE(text, std::error_code(value).message());
    EXPECT_NE(unknown, condition);
  }
}

TEST(error_code, travels_through_system_error) {
  try {
    throw std::system_error(errc::pinned);
  } catch (const std::system_error& e) {
    EXPECT_EQ(e.code(), errc::pinned);
    EXPECT_EQ(e.code(), std::errc::device_or_resource_busy);
    EXPECT_NE(std::string(e.what()).find(std::error_code(errc::pinned).message()),
              std::string::npos);
  }
}

}  // namespace
