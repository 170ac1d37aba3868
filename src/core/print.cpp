#include <mapio/backend.hpp>
#include <mapio/mapping.hpp>

#include <ostream>

MAPIO_NAMESPACE_BEGIN

std::ostream& operator<<(std::ostream& out, const mapping& m) {
  if (!m.is_open()) return out << "closed";
  const char* mode = m.mode() == access::read_only    ? "read-only"
                     : m.mode() == access::read_write ? "read-write"
                                                      : "copy-on-write";
  return out << m.path().string() << " (" << mode << ", " << m.size() << " of " << m.capacity()
             << " bytes)";
}

std::ostream& operator<<(std::ostream& out, backend_kind kind) {
  switch (kind) {
  case backend_kind::automatic:
    return out << "automatic";
  case backend_kind::io_uring:
    return out << "io_uring";
  case backend_kind::iocp:
    return out << "iocp";
  case backend_kind::thread_pool:
    return out << "thread_pool";
  }
  return out << "unknown";
}

std::ostream& operator<<(std::ostream& out, const backend_info& info) {
  return out << info.kind << " (" << info.reason << ")";
}

MAPIO_NAMESPACE_END
