#include <mapio/error.hpp>

#include <mapio/mapping.hpp>

#include <string>

MAPIO_NAMESPACE_BEGIN
namespace {

class mapio_category final : public std::error_category {
 public:
  const char* name() const noexcept override { return "mapio"; }

  std::string message(int value) const override {
    switch (static_cast<errc>(value)) {
    case errc::not_open:
      return "the file is not open";
    case errc::out_of_range:
      return "the range reaches beyond the end of the file";
    case errc::read_only:
      return "the mapping is read-only";
    case errc::misaligned:
      return "the offset is not aligned";
    case errc::pinned:
      return "a live region keeps the pages in place";
    case errc::page_fault:
      return "the file under the mapping is gone, short or unreadable";
    case errc::flush_failed:
      return "an earlier sync of this file failed";
    case errc::unsupported:
      return "not supported here";
    }
    return "unknown mapio error";
  }

  std::error_condition default_error_condition(int value) const noexcept override {
    switch (static_cast<errc>(value)) {
    case errc::not_open:
      return std::errc::bad_file_descriptor;
    case errc::out_of_range:
      return std::errc::invalid_argument;
    case errc::read_only:
      return std::errc::permission_denied;
    case errc::misaligned:
      return std::errc::invalid_argument;
    case errc::pinned:
      return std::errc::device_or_resource_busy;
    case errc::page_fault:
    case errc::flush_failed:
      return std::errc::io_error;
    case errc::unsupported:
      return std::errc::operation_not_supported;
    }
    return {value, *this};
  }
};

}  // namespace

const std::error_category& error_category() noexcept {
  static const mapio_category category;
  return category;
}

namespace detail {
void throw_error(const std::error_code& error, const char* what) {
  throw std::system_error(error, std::string("mapio: ") + what);
}

std::error_code error_of(failure why) noexcept {
  if (!is_failure(why)) return {};
  return why == out_of_memory ? make_error_code(std::errc::not_enough_memory)
                              : make_error_code(why);
}

void throw_failure(failure why, const char* what) {
  throw_error(error_of(why), what);
}
}  // namespace detail

MAPIO_NAMESPACE_END
