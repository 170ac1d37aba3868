#ifndef MAPIO_BENCH_COMPARISON_HPP
#define MAPIO_BENCH_COMPARISON_HPP

// What the benchmarks share: running them so that measured and baseline alternate, and a table that
// compares their medians.
//
// Everything that Google Benchmark understands works as ever (--benchmark_filter,
// --benchmark_format=json, ...); what is added here is described by usage().

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace bench {

/// Looks up the medians of one run by the names of the benchmarks. What was not run is no number
/// (NaN).
class medians {
 public:
  /// Returns the real time of one iteration, in nanoseconds.
  double time(const std::string& name) const;
  /// Returns the processor time of one iteration, in nanoseconds: for what never waits, since other
  /// programs disturb it less.
  double processor_time(const std::string& name) const;
  /// Returns iterations per second; items per second where the benchmark counts items.
  double rate(const std::string& name) const;
  /// Returns a counter of the benchmark.
  double counter(const std::string& name, const std::string& counter) const;

 private:
  friend class table_reporter;
  struct median {
    double time = 0;
    double processor_time = 0;
    std::map<std::string, double> counters;
  };
  std::map<std::string, median> values_;
};

/// Collects lines "what | measured | baseline | ratio or difference | limit | ok?". A line of what
/// was not run is left out; one without a limit only informs.
class table {
 public:
  using nanoseconds = std::chrono::duration<double, std::nano>;

  /// Compares times by their difference, which may be at most `limit`.
  void difference(std::string what, double measured, double baseline,
                  std::optional<nanoseconds> limit = {});
  /// Compares times by their ratio, which may be at most `limit`.
  void slower(std::string what, double measured, double baseline, std::optional<double> limit = {});
  /// Compares rates by their ratio, which must be at least `limit`.
  void faster(std::string what, double measured, double baseline, std::optional<double> limit = {});
  /// Compares plain numbers by their ratio, which must be at least `limit`.
  void factor(std::string what, double measured, double baseline, std::optional<double> limit = {});
  /// Holds a time against `limit` alone; the baseline is there for comparison.
  void absolute(std::string what, double measured, double baseline,
                std::optional<nanoseconds> limit = {});

  /// Holds a plain number against `limit` alone; the baseline is there for comparison.
  void count(std::string what, double measured, double baseline, std::optional<double> limit = {});
  /// Holds a number of bytes against `limit` alone; the baseline is there for comparison.
  void bytes(std::string what, double measured, double baseline, std::optional<double> limit = {});

  /// Tells whether every limit is kept.
  bool ok() const;
  bool empty() const { return lines_.empty(); }
  std::string text() const;

 private:
  using line = std::vector<std::string>;
  void add(std::string what, double measured, double baseline, std::string (*show)(double),
           std::string relation, std::string limit, std::optional<bool> kept);

  std::vector<line> lines_;
  bool ok_ = true;
};

/// Takes this file's own options off the command line.
struct options {
  bool check = false;
  std::filesystem::path directory = ".";
};

/// What a program may choose differently from the others.
struct defaults {
  int repetitions = 9;
};

/// Prepares a run; call before anything is registered. Ends the program for --help and for options
/// that nobody knows.
options initialize(int argc, char** argv, const defaults& unless_told = {});

/// Runs what is registered, alternating, and prints the table that `compare` fills. Returns the
/// exit status.
int run(const options& given, const std::function<void(const medians&, table&)>& compare);

/// Makes an empty directory for the files of a benchmark and removes it, with what is in it, in the
/// end.
class work_directory {
 public:
  explicit work_directory(const std::filesystem::path& parent);
  work_directory(const work_directory&) = delete;
  work_directory& operator=(const work_directory&) = delete;
  ~work_directory();
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace bench

#endif  // MAPIO_BENCH_COMPARISON_HPP
