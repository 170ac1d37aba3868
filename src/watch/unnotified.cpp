// For platforms that tell of no changes: everything is polled.
#include "watch_source.hpp"

#include <mapio/error.hpp>

MAPIO_NAMESPACE_BEGIN
namespace detail::watching {

std::unique_ptr<watch_source> make_watch_source(asio::execution_context&, std::function<void()>) {
  return make_silent_source(errc::unsupported);
}

bool may_change_unseen(const std::filesystem::path&) noexcept {
  return false;
}

bool look_at_once(const std::filesystem::path&, bool, file_look&) noexcept {
  return false;
}

}  // namespace detail::watching
MAPIO_NAMESPACE_END
