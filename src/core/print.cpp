#include <mapio/backend.hpp>
#include <mapio/mapping.hpp>
#include <mapio/watcher.hpp>

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

std::ostream& operator<<(std::ostream& out, change_kind kind) {
  switch (kind) {
  case change_kind::modified:
    return out << "modified";
  case change_kind::metadata:
    return out << "metadata";
  case change_kind::created:
    return out << "created";
  case change_kind::removed:
    return out << "removed";
  case change_kind::renamed:
    return out << "renamed";
  case change_kind::replaced:
    return out << "replaced";
  case change_kind::truncated:
    return out << "truncated";
  case change_kind::overflow:
    return out << "overflow";
  }
  return out << "unknown";
}

std::ostream& operator<<(std::ostream& out, const change_event& event) {
  out << event.kind;
  if (event.kind == change_kind::renamed) out << ' ' << event.previous_path.string() << " ->";
  if (!event.path.empty()) out << ' ' << event.path.string();
  if (event.size) out << " (" << *event.size << " bytes)";
  return out;
}

MAPIO_NAMESPACE_END
