#ifndef MAPIO_ATOMIC_HPP
#define MAPIO_ATOMIC_HPP

#include <mapio/detail/config.hpp>
#include <mapio/detail/pin.hpp>
#include <mapio/error.hpp>
#include <mapio/options.hpp>

#include <asio/any_io_executor.hpp>

#include <atomic>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <system_error>
#include <type_traits>
#include <utility>

MAPIO_NAMESPACE_BEGIN

class mapping;
template <class T, class Executor = asio::any_io_executor>
class atomic_cell;

/// Holds for the integers that a file can be shared through: those of 4 and of 8 bytes.
///
/// @par Example
///   static_assert(mapio::atomic_word<std::uint64_t>);
template <class T>
concept atomic_word = std::integral<T> && std::same_as<T, std::remove_cv_t<T>> &&
    (sizeof(T) == 4 || sizeof(T) == 8);

namespace detail {

struct atomic_access;

/// Words of a mapping that are kept in place; what they may be used for is in `mode`.
struct pinned_words {
  pin holder;
  std::byte* first = nullptr;
  std::uint64_t offset = 0;
  access mode = access::read_only;
};

/// Throws why the word, which may be null, cannot be changed.
[[noreturn]] MAPIO_DECL void refuse_change(const void* word, const char* what);
/// Throws that there is no word.
[[noreturn]] MAPIO_DECL void refuse_use(const char* what);
MAPIO_DECL std::error_code wait_while(const void* word, std::uint32_t value, access mode) noexcept;
MAPIO_DECL std::error_code notify(const void* word, bool all, access mode) noexcept;
MAPIO_DECL void throw_if(const std::error_code& error, const char* what);

}  // namespace detail

/// Refers to an integer in a mapped file that several threads and processes use at once; what it
/// was taken from keeps it mapped.
///
/// Whatever std::atomic_ref can do, with the same orders and the same meaning, also between
/// processes that map the same file. On a read-only mapping only load() and wait() work, and all
/// else throws std::system_error with errc::read_only. On a copy-on-write mapping the values are
/// this mapping's own, and nobody can be waited for or notified. An empty reference throws
/// errc::not_open.
///
/// If somebody outside truncates the file, touching the integer raises SIGBUS, but for wait() and
/// notify, which report errc::page_fault.
///
/// @tparam T  An integer of 4 or 8 bytes. With 8 bytes there is no wait and no notify: the kernels
/// wait for 4, and half of an integer would lose wake-ups.
/// @par Thread safety
///   Any thread, all members at once.
/// @par Lifetime
///   Valid as long as the view or span that it was taken from, or a copy of that.
/// @par Example
///   for (auto counter : map.atomics<std::uint64_t>(0, 8)) counter.fetch_add(1);
template <atomic_word T>
class atomic_reference {
 public:
  /// Names the type of the integer.
  using value_type = T;
  /// Names the type of what is added and subtracted.
  using difference_type = T;
  /// Tells whether no operation takes a lock; there is none that other processes would know of.
  static constexpr bool is_always_lock_free = std::atomic_ref<T>::is_always_lock_free;
  static_assert(is_always_lock_free, "this processor has no such atomics");

  /// Makes an empty reference.
  atomic_reference() noexcept = default;

  /// Tells whether there is no integer.
  bool empty() const noexcept { return word_ == nullptr; }
  /// Tells whether the mapping is read-only.
  bool is_read_only() const noexcept { return mode_ == access::read_only; }

  /// Returns the value.
  T load(std::memory_order order = std::memory_order_seq_cst) const {
    if (word_ == nullptr) [[unlikely]]
      detail::refuse_use("load");
    return std::atomic_ref<T>(*word_).load(order);
  }
  /// Sets the value. Throws as all that follows but wait(): see above.
  void store(T value, std::memory_order order = std::memory_order_seq_cst) const {
    changeable("store").store(value, order);
  }
  /// Sets the value without throwing.
  void store(T value, std::error_code& error) const {
    error = word_ == nullptr ? make_error_code(errc::not_open)
            : is_read_only() ? make_error_code(errc::read_only)
                             : std::error_code();
    if (!error) std::atomic_ref<T>(*word_).store(value);
  }
  /// Sets the value and returns the one before.
  T exchange(T value, std::memory_order order = std::memory_order_seq_cst) const {
    return changeable("exchange").exchange(value, order);
  }
  /// Adds, and returns the value before.
  T fetch_add(T n, std::memory_order order = std::memory_order_seq_cst) const {
    return changeable("fetch_add").fetch_add(n, order);
  }
  /// Subtracts, and returns the value before.
  T fetch_sub(T n, std::memory_order order = std::memory_order_seq_cst) const {
    return changeable("fetch_sub").fetch_sub(n, order);
  }
  /// Keeps the bits that are in `n` too, and returns the value before.
  T fetch_and(T n, std::memory_order order = std::memory_order_seq_cst) const {
    return changeable("fetch_and").fetch_and(n, order);
  }
  /// Adds the bits of `n`, and returns the value before.
  T fetch_or(T n, std::memory_order order = std::memory_order_seq_cst) const {
    return changeable("fetch_or").fetch_or(n, order);
  }
  /// Inverts the bits that are in `n`, and returns the value before.
  T fetch_xor(T n, std::memory_order order = std::memory_order_seq_cst) const {
    return changeable("fetch_xor").fetch_xor(n, order);
  }
  /// Sets the value if it is `expected`, which becomes what it was; may fail for no reason.
  bool compare_exchange_weak(T& expected, T desired,
                             std::memory_order order = std::memory_order_seq_cst) const {
    return changeable("compare_exchange").compare_exchange_weak(expected, desired, order);
  }
  /// Sets the value if it is `expected`, which becomes what it was; may fail for no reason.
  bool compare_exchange_weak(T& expected, T desired, std::memory_order success,
                             std::memory_order failure) const {
    return changeable("compare_exchange")
        .compare_exchange_weak(expected, desired, success, failure);
  }
  /// Sets the value if it is `expected`, which becomes what it was.
  bool compare_exchange_strong(T& expected, T desired,
                               std::memory_order order = std::memory_order_seq_cst) const {
    return changeable("compare_exchange").compare_exchange_strong(expected, desired, order);
  }
  /// Sets the value if it is `expected`, which becomes what it was.
  bool compare_exchange_strong(T& expected, T desired, std::memory_order success,
                               std::memory_order failure) const {
    return changeable("compare_exchange")
        .compare_exchange_strong(expected, desired, success, failure);
  }
  /// Returns the standard's reference to the integer, for what takes one.
  ///
  /// Its wait and notify are for threads of this process alone.
  std::atomic_ref<T> ref() const { return changeable("ref"); }

  /// Blocks the thread until the value is not `old` any more and somebody, in whatever process, has
  /// said so, or until it finds out by itself.
  ///
  /// Returns with the value seen as by a load of memory_order_seq_cst. No notification is missed
  /// that follows a change; a change to and fro may be. There is no way to end it but a change.
  ///
  /// @par Errors
  ///   errc::unsupported on a copy-on-write mapping; errc::page_fault: the file was truncated by
  ///   somebody else; errc::not_open on an empty reference.
  /// @par Example
  ///   while (flag.load() == 0) flag.wait(0);
  void wait(T old) const requires(sizeof(T) == 4) {
    std::error_code error;
    wait(old, error);
    detail::throw_if(error, "wait");
  }
  /// Waits without throwing.
  void wait(T old, std::error_code& error) const requires(sizeof(T) == 4) {
    error = detail::wait_while(word_, std::bit_cast<std::uint32_t>(old), mode_);
  }
  /// Wakes at least one of those who wait, blocked or awaiting, in whatever process.
  ///
  /// Which one is not for the caller to choose: where some wait for another value than others, use
  /// notify_all(). Change the value first.
  ///
  /// @par Errors
  ///   errc::read_only, errc::unsupported on a copy-on-write mapping, errc::page_fault,
  ///   errc::not_open.
  /// @par Example
  ///   flag.store(1); flag.notify_one();
  void notify_one() const requires(sizeof(T) == 4) {
    std::error_code error;
    notify_one(error);
    detail::throw_if(error, "notify_one");
  }
  /// Notifies without throwing.
  void notify_one(std::error_code& error) const requires(sizeof(T) == 4) {
    error = detail::notify(word_, false, mode_);
  }
  /// Wakes all who wait, blocked or awaiting, in whatever process. Change the value first.
  ///
  /// @par Errors
  ///   As notify_one().
  /// @par Example
  ///   flag.store(1); flag.notify_all();
  void notify_all() const requires(sizeof(T) == 4) {
    std::error_code error;
    notify_all(error);
    detail::throw_if(error, "notify_all");
  }
  /// Notifies without throwing.
  void notify_all(std::error_code& error) const requires(sizeof(T) == 4) {
    error = detail::notify(word_, true, mode_);
  }

 private:
  friend struct detail::atomic_access;

  atomic_reference(T* word, access mode) noexcept : word_(word), mode_(mode) {}

  std::atomic_ref<T> changeable(const char* what) const {
    if (mode_ == access::read_only) [[unlikely]]
      detail::refuse_change(word_, what);
    return std::atomic_ref<T>(*word_);
  }

  T* word_ = nullptr;
  access mode_ = access::read_only;  // also of an empty one
};

namespace detail {
/// Lets the library make atomics without giving everybody the constructors.
struct atomic_access {
  template <class T>
  static atomic_reference<T> refer(std::byte* word, access mode) noexcept {
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): aligned, and bytes of a file
    return {reinterpret_cast<T*>(word), mode};
  }
  template <class T>
  static std::byte* address(const atomic_reference<T>& r) noexcept {
    return reinterpret_cast<std::byte*>(r.word_);
  }
  template <class Atomic>
  static Atomic make(pinned_words&& words, std::size_t count) noexcept {
    return {std::move(words), count};
  }
};
}  // namespace detail

/// Refers to one integer in a mapped file, and keeps it mapped, at its address, for as long as any
/// copy lives.
///
/// Made by mapping::atomic(). As with a mutable_region its page counts as dirty meanwhile: a flush
/// covers every change made through it. It is in the way of a shrink, and of a growth that moves
/// the mapping.
///
/// @tparam T  As of atomic_reference, where the operations are.
/// @par Thread safety
///   Different objects, copies included: any thread. One object: every member but assignment and
///   destruction may be called from any thread at once.
/// @par Example
///   auto next = map.atomic<std::uint64_t>(64);
///   std::uint64_t mine = next.fetch_add(1);
template <atomic_word T>
class atomic_view : public atomic_reference<T> {
 public:
  /// Makes an empty view that pins nothing.
  atomic_view() noexcept = default;
  /// Pins the same integer once more.
  atomic_view(const atomic_view&) = default;
  /// Drops what this view pinned, and pins the same integer as `other` does.
  atomic_view& operator=(const atomic_view&) = default;
  /// Leaves `other` empty.
  atomic_view(atomic_view&& other) noexcept
      : atomic_reference<T>(std::exchange(other.reference(), {})), pin_(std::move(other.pin_)),
        offset_(std::exchange(other.offset_, 0)) {}
  /// Drops what this view pinned and leaves `other` empty.
  atomic_view& operator=(atomic_view&& other) noexcept {
    reference() = std::exchange(other.reference(), {});
    offset_ = std::exchange(other.offset_, 0);
    pin_ = std::move(other.pin_);
    return *this;
  }
  /// Drops the pin.
  ~atomic_view() = default;

  /// Returns the position of the integer in the file, in bytes.
  std::uint64_t offset() const noexcept { return offset_; }

 private:
  friend struct detail::atomic_access;

  atomic_view(detail::pinned_words&& words, std::size_t) noexcept
      : atomic_reference<T>(detail::atomic_access::refer<T>(words.first, words.mode)),
        pin_(std::move(words.holder)), offset_(words.offset) {}

  atomic_reference<T>& reference() noexcept { return *this; }

  detail::pin pin_;
  std::uint64_t offset_ = 0;
};

/// Refers to integers that lie side by side in a mapped file, and keeps them mapped, at their
/// address, for as long as any copy lives.
///
/// Made by mapping::atomics(). Pinned once, and dirty meanwhile, as an atomic_view.
///
/// @tparam T  As of atomic_reference.
/// @par Thread safety
///   As atomic_view.
/// @par Example
///   auto slots = map.atomics<std::uint32_t>(0, 1024); slots[7].store(1);
template <atomic_word T>
class atomic_span {
 public:
  /// Names the type of what refers to one of them.
  using value_type = atomic_reference<T>;

  /// Goes from one integer to the next; what it shows is made anew each time, so that it is a
  /// std::forward_iterator, and for the algorithms of before C++20 an input iterator.
  class iterator {
   public:
    /// Names what it shows.
    using value_type = atomic_reference<T>;
    /// Names the type of distances.
    using difference_type = std::ptrdiff_t;
    /// Says what it is to std::ranges.
    using iterator_concept = std::forward_iterator_tag;
    /// Says what it is to older algorithms.
    using iterator_category = std::input_iterator_tag;

    /// Makes one that is only good for assignment.
    iterator() noexcept = default;
    /// Refers to the integer; valid while a copy of the span lives.
    value_type operator*() const noexcept { return detail::atomic_access::refer<T>(at_, mode_); }
    /// Goes on to the next one.
    iterator& operator++() noexcept {
      at_ += sizeof(T);
      return *this;
    }
    /// Goes on to the next one, and returns where it was.
    iterator operator++(int) noexcept {
      iterator before = *this;
      ++*this;
      return before;
    }
    /// Tells whether both are at the same integer.
    friend bool operator==(const iterator& a, const iterator& b) noexcept { return a.at_ == b.at_; }

   private:
    friend class atomic_span;
    iterator(std::byte* at, access mode) noexcept : at_(at), mode_(mode) {}

    std::byte* at_ = nullptr;
    access mode_ = access::read_only;
  };

  /// Makes an empty span that pins nothing.
  atomic_span() noexcept = default;
  /// Pins the same integers once more.
  atomic_span(const atomic_span&) = default;
  /// Drops what this span pinned, and pins the same integers as `other` does.
  atomic_span& operator=(const atomic_span&) = default;
  /// Leaves `other` empty.
  atomic_span(atomic_span&& other) noexcept
      : words_(std::exchange(other.words_, {})), size_(std::exchange(other.size_, 0)) {}
  /// Drops what this span pinned and leaves `other` empty.
  atomic_span& operator=(atomic_span&& other) noexcept {
    words_ = std::exchange(other.words_, {});
    size_ = std::exchange(other.size_, 0);
    return *this;
  }
  /// Drops the pin.
  ~atomic_span() = default;

  /// Returns how many integers there are.
  std::size_t size() const noexcept { return size_; }
  /// Tells whether there is not a single one.
  bool empty() const noexcept { return size_ == 0; }
  /// Returns the position of the first one in the file, in bytes.
  std::uint64_t offset() const noexcept { return words_.offset; }
  /// Refers to one of them, which must be there; valid while a copy of this span lives.
  value_type operator[](std::size_t i) const noexcept {
    return detail::atomic_access::refer<T>(words_.first + i * sizeof(T), words_.mode);
  }
  /// Returns where the first one is.
  iterator begin() const noexcept { return {words_.first, words_.mode}; }
  /// Returns the place behind the last one.
  iterator end() const noexcept { return {words_.first + size_ * sizeof(T), words_.mode}; }

 private:
  friend struct detail::atomic_access;

  atomic_span(detail::pinned_words&& words, std::size_t count) noexcept
      : words_(std::move(words)), size_(count) {}

  detail::pinned_words words_;
  std::size_t size_ = 0;
};

MAPIO_NAMESPACE_END

#endif  // MAPIO_ATOMIC_HPP
