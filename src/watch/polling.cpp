#include "watch_source.hpp"

#include <memory>

MAPIO_NAMESPACE_BEGIN
namespace detail::watching {
namespace {

class silent_source final : public watch_source {
 public:
  explicit silent_source(std::error_code reason) : reason_(reason) {}

  std::error_code add(const std::filesystem::path&, interest, watch_id&) noexcept override {
    return reason_;
  }
  void remove(watch_id) noexcept override {}
  bool read(std::vector<notice>&) override { return false; }
  void ask_for_all(watch_id) noexcept override {}
  bool has_told_all(watch_id) noexcept override { return true; }
  bool arm() noexcept override { return false; }
  void disarm() noexcept override {}
  void shut_down() noexcept override {}

 private:
  const std::error_code reason_;
};

}  // namespace

std::unique_ptr<watch_source> make_silent_source(std::error_code reason) {
  return std::make_unique<silent_source>(reason);
}

}  // namespace detail::watching
MAPIO_NAMESPACE_END
