#ifndef MAPIO_TESTS_SANITIZERS_HPP
#define MAPIO_TESTS_SANITIZERS_HPP

// What this is compiled under. GCC and Clang say it differently.

#if defined(__has_feature)
#define MAPIO_TEST_HAS_FEATURE(feature) __has_feature(feature)
#else
#define MAPIO_TEST_HAS_FEATURE(feature) 0
#endif

#if defined(__SANITIZE_THREAD__) || MAPIO_TEST_HAS_FEATURE(thread_sanitizer)
#define MAPIO_TEST_UNDER_TSAN 1
#else
#define MAPIO_TEST_UNDER_TSAN 0
#endif

#if defined(__SANITIZE_ADDRESS__) || MAPIO_TEST_HAS_FEATURE(address_sanitizer)
#define MAPIO_TEST_UNDER_ASAN 1
#else
#define MAPIO_TEST_UNDER_ASAN 0
#endif

// Tests of another system's programs: by CMake.
#ifndef MAPIO_TEST_IS_EMULATED
#define MAPIO_TEST_IS_EMULATED 0
#endif

namespace support {

inline constexpr bool under_tsan = MAPIO_TEST_UNDER_TSAN != 0;
inline constexpr bool under_asan = MAPIO_TEST_UNDER_ASAN != 0;
inline constexpr bool is_emulated = MAPIO_TEST_IS_EMULATED != 0;

/// How often something is done that finds the more the oftener it is: a sanitizer, which finds what
/// is wrong with any, takes several times as long for each, and so does an emulator.
constexpr int as_often_as(int times) noexcept {
  return under_tsan || under_asan || is_emulated ? (times + 9) / 10 : times;
}

}  // namespace support

#endif
