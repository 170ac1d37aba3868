#include "comparison.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <memory>
#include <string_view>
#include <system_error>
#include <utility>

#include <unistd.h>

namespace bench {
namespace {

constexpr double not_run = std::numeric_limits<double>::quiet_NaN();

template <class... Values>
std::string print(const char* format, Values... values) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), format, values...);
  return text.data();
}

std::string show_time(double ns) {
  if (ns < 1e3) return print("%.1f ns", ns);
  if (ns < 1e6) return print("%.2f us", ns / 1e3);
  return print("%.2f ms", ns / 1e6);
}

std::string show_rate(double rate) {
  if (rate < 1e4) return print("%.0f /s", rate);
  if (rate < 1e6) return print("%.1f k/s", rate / 1e3);
  return print("%.2f M/s", rate / 1e6);
}

std::string show_bytes(double value) {
  return print("%.1f KiB", value / 1024);
}
std::string show_number(double value) {
  return print("%.2f", value);
}
std::string show_ratio(double value) {
  return print("%.2fx", value);
}

const char* const usage =
    "Beside the options of Google Benchmark, listed below:\n"
    "  --check      exit with status 1 if a limit of the table is not kept\n"
    "  --dir=DIR    where the files are made that are measured; must be on a disk (default: here)\n"
    "Unless told otherwise every benchmark is repeated (5 times or more), in random order. The "
    "table compares their medians.\n\n";

}  // namespace

double medians::time(const std::string& name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? not_run : found->second.time;
}

double medians::processor_time(const std::string& name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? not_run : found->second.processor_time;
}

double medians::counter(const std::string& name, const std::string& counter) const {
  const auto found = values_.find(name);
  if (found == values_.end()) return not_run;
  const auto value = found->second.counters.find(counter);
  return value == found->second.counters.end() ? not_run : value->second;
}

double medians::rate(const std::string& name) const {
  const double items = counter(name, "items_per_second");
  return std::isnan(items) ? 1e9 / time(name) : items;
}

void table::add(std::string what, double measured, double baseline, std::string (*show)(double),
                std::string relation, std::string limit, std::optional<bool> kept) {
  if (std::isnan(measured) || std::isnan(baseline)) return;
  if (!kept.value_or(true)) ok_ = false;
  lines_.push_back({std::move(what), show(measured), show(baseline), std::move(relation),
                    std::move(limit),
                    !kept   ? ""
                    : *kept ? "ok"
                            : "MISSED"});
}

void table::difference(std::string what, double measured, double baseline,
                       std::optional<nanoseconds> limit) {
  const double more = measured - baseline;
  const std::string sign = more < 0 ? "-" : "+";
  add(std::move(what), measured, baseline, show_time, sign + show_time(std::abs(more)),
      limit ? "at most +" + show_time(limit->count()) : "",
      limit ? std::optional(more <= limit->count()) : std::nullopt);
}

void table::slower(std::string what, double measured, double baseline,
                   std::optional<double> limit) {
  const double ratio = measured / baseline;
  add(std::move(what), measured, baseline, show_time, show_ratio(ratio),
      limit ? "at most " + show_ratio(*limit) : "",
      limit ? std::optional(ratio <= *limit) : std::nullopt);
}

void table::faster(std::string what, double measured, double baseline,
                   std::optional<double> limit) {
  const double ratio = measured / baseline;
  add(std::move(what), measured, baseline, show_rate, show_ratio(ratio),
      limit ? "at least " + show_ratio(*limit) : "",
      limit ? std::optional(ratio >= *limit) : std::nullopt);
}

void table::factor(std::string what, double measured, double baseline,
                   std::optional<double> limit) {
  const double ratio = measured / baseline;
  add(std::move(what), measured, baseline, show_number, show_ratio(ratio),
      limit ? "at least " + show_ratio(*limit) : "",
      limit ? std::optional(ratio >= *limit) : std::nullopt);
}

void table::absolute(std::string what, double measured, double baseline,
                     std::optional<nanoseconds> limit) {
  add(std::move(what), measured, baseline, show_time, show_ratio(measured / baseline),
      limit ? "at most " + show_time(limit->count()) : "",
      limit ? std::optional(measured <= limit->count()) : std::nullopt);
}

void table::count(std::string what, double measured, double baseline, std::optional<double> limit) {
  add(std::move(what), measured, baseline, show_number, "",
      limit ? "at most " + show_number(*limit) : "",
      limit ? std::optional(measured <= *limit) : std::nullopt);
}

void table::bytes(std::string what, double measured, double baseline, std::optional<double> limit) {
  add(std::move(what), measured, baseline, show_bytes, show_ratio(measured / baseline),
      limit ? "at most " + show_bytes(*limit) : "",
      limit ? std::optional(measured <= *limit) : std::nullopt);
}

bool table::ok() const {
  return ok_;
}

std::string table::text() const {
  std::vector<line> rows = {
      {"what", "measured", "baseline", "ratio or difference", "limit", "ok?"}};
  rows.insert(rows.end(), lines_.begin(), lines_.end());
  std::vector<std::size_t> widths(rows.front().size());
  for (const line& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i)
      widths[i] = std::max(widths[i], row[i].size());
  rows.insert(rows.begin() + 1, line(widths.size()));
  for (std::size_t i = 0; i < widths.size(); ++i)
    rows[1][i] = std::string(widths[i], '-');
  std::string result;
  for (const line& row : rows) {
    std::string text;
    for (std::size_t i = 0; i < row.size(); ++i) {
      text += (i == 0 ? "" : " | ") + row[i];
      text.append(widths[i] - row[i].size(), ' ');
    }
    result += text.substr(0, text.find_last_not_of(" |") + 1) + "\n";
  }
  return result;
}

/// Passes everything on to the reporter that the command line asked for, and keeps the medians.
class table_reporter final : public benchmark::BenchmarkReporter {
 public:
  table_reporter() : next_(benchmark::CreateDefaultDisplayReporter()) {}

  bool ReportContext(const Context& context) override { return next_->ReportContext(context); }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      failed_ = failed_ || run.error_occurred;
      // What is run once is its own median, and Google Benchmark does not say so.
      const bool is_median =
          run.run_type == Run::RT_Aggregate ? run.aggregate_name == "median" : run.repetitions == 1;
      if (!is_median) continue;
      medians::median& value = medians_.values_[run.run_name.function_name];
      const double nanoseconds = 1e9 / benchmark::GetTimeUnitMultiplier(run.time_unit);
      value.time = run.GetAdjustedRealTime() * nanoseconds;
      value.processor_time = run.GetAdjustedCPUTime() * nanoseconds;
      for (const auto& [name, counter] : run.counters)
        value.counters[name] = counter.value;
    }
    next_->ReportRuns(runs);
  }
  void Finalize() override { next_->Finalize(); }

  const medians& result() const noexcept { return medians_; }
  bool failed() const noexcept { return failed_; }
  /// Tells whether a person reads stdout.
  bool is_console() const {
    return dynamic_cast<const benchmark::ConsoleReporter*>(next_.get()) != nullptr;
  }

 private:
  std::unique_ptr<benchmark::BenchmarkReporter> next_;
  medians medians_;
  bool failed_ = false;
};

options initialize(int argc, char** argv, const defaults& unless_told) {
  options given;
  // In front of what is given, so that it can be overruled.
  static std::vector<std::string> arguments = {
      argv[0], "--benchmark_repetitions=" + std::to_string(unless_told.repetitions),
      "--benchmark_enable_random_interleaving=true", "--benchmark_min_time=0.1",
      "--benchmark_display_aggregates_only=true"};
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--check")
      given.check = true;
    else if (argument.starts_with("--dir="))
      given.directory = argument.substr(6);
    else
      arguments.emplace_back(argument);
    if (argument == "--help") std::cout << usage << std::flush;
  }
  static std::vector<char*> pointers;
  pointers.reserve(arguments.size() + 1);
  for (std::string& argument : arguments)
    pointers.push_back(argument.data());
  int count = static_cast<int>(pointers.size());
  pointers.push_back(nullptr);
  benchmark::Initialize(&count, pointers.data());
  if (benchmark::ReportUnrecognizedArguments(count, pointers.data())) std::exit(2);
  return given;
}

int run(const options& given, const std::function<void(const medians&, table&)>& compare) {
  table_reporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  benchmark::Shutdown();
  table lines;
  compare(reporter.result(), lines);
  // Where a program reads stdout, the table is not for it.
  if (!lines.empty())
    (reporter.is_console() ? std::cout : std::cerr) << '\n' << lines.text() << std::flush;
  if (reporter.failed()) return 1;
  return given.check && !lines.ok() ? 1 : 0;
}

work_directory::work_directory(const std::filesystem::path& parent) {
  std::string name = (parent / "bench-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr)
    throw std::system_error(errno, std::system_category(), parent.string());
  path_ = name;
}

work_directory::~work_directory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace bench
