#ifndef MAPIO_SRC_PLATFORM_SCHEDULING_HPP
#define MAPIO_SRC_PLATFORM_SCHEDULING_HPP

// How the kernel schedules a thread (Linux).

#include <mapio/detail/config.hpp>

#include <cstdint>

MAPIO_NAMESPACE_BEGIN
namespace detail::platform {

/// As the kernel's sched_attr, whose header declares what glibc's declares as well.
struct scheduling {
  std::uint32_t size = sizeof(scheduling);
  std::uint32_t policy = 0;
  std::uint64_t flags = 0;
  std::int32_t nice = 0;
  std::uint32_t priority = 0;
  std::uint64_t slice = 0;  // ns; where the policy is SCHED_OTHER, since Linux 6.12
  std::uint64_t deadline = 0;
  std::uint64_t period = 0;
};
static_assert(sizeof(scheduling) == 48);

}  // namespace detail::platform
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_PLATFORM_SCHEDULING_HPP
