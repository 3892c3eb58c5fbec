#include "train/run/log.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "parallel/hosts.h"
#include "train/run/signals.h"

namespace jambalaya {

namespace {

std::mutex mutex;
std::vector<std::string> kept_warnings;
bool progress_shown = false;  // the cursor stands behind a line that may be written over
std::chrono::steady_clock::time_point progress_time;
constexpr const char* kClearLine = "\r\x1b[K";

LogSettings from_environment() {
  LogSettings settings;
  const auto given = [](const char* name) {
    const char* value = std::getenv(name);
    return value && *value;
  };
  const char* term = std::getenv("TERM");
  settings.terminal = isatty(STDERR_FILENO) != 0 && !given("CI") && term && std::string(term) != "dumb";
  settings.color = given("FORCE_COLOR") || (settings.terminal && !given("NO_COLOR"));  // no-color.org
  settings.rank = launched_rank();
  return settings;
}

/// One write for a line, so that lines of several ranks do not mix.
void write_line(const std::string& text) {
  std::lock_guard lock(mutex);
  const std::string line = cat(progress_shown ? kClearLine : "", text, "\n");
  progress_shown = false;
  std::fwrite(line.data(), 1, line.size(), stderr);
}

std::string colored(const std::string& text, const char* code) {
  return log_settings().color ? cat("\x1b[", code, "m", text, "\x1b[0m") : text;
}

size_t columns(const std::string& text) {
  // UTF-8: continuation bytes take no column.
  return size_t(std::count_if(text.begin(), text.end(),
                              [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::vector<std::string> wrapped(const std::string& text, size_t width) {
  std::vector<std::string> lines;
  std::string line;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    const std::string word = text.substr(at, end - at);
    if (!line.empty() && columns(line) + 1 + columns(word) > width) {
      lines.push_back(line);
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
    at = end + 1;
  }
  lines.push_back(line);
  return lines;
}

/// Waits two seconds, later ranks a little longer, so that of several that failed alike the first ends the
/// others. As a rule mpirun kills this process meanwhile; where signals are watched, one has come.
bool rank_0_ends_the_job(int rank) {
  const auto until =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(2000 + 50 * std::min(rank, 40));
  while (std::chrono::steady_clock::now() < until) {
    if (stop_signal()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

}  // namespace

int launched_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"})
    if (const char* value = std::getenv(name)) return std::atoi(value);
  return 0;
}

LogSettings& log_settings() {
  static LogSettings settings = from_environment();
  return settings;
}

LogLevel log_level_of(const std::string& word) {
  if (word == "error") return LogLevel::error;
  if (word == "warning") return LogLevel::warning;
  if (word == "debug") return LogLevel::debug;
  JAMBALAYA_CHECK(word == "info", "log level ", word);
  return LogLevel::info;
}

void log_info(const std::string& line) {
  if (log_settings().level >= LogLevel::info && log_settings().rank == 0) write_line(line);
}

void log_debug(const std::string& line) {
  if (log_settings().level >= LogLevel::debug && log_settings().rank == 0) write_line(colored(line, "2"));
}

void log_warning(const std::string& line) {
  if (log_settings().level < LogLevel::warning) return;
  const std::string who = log_settings().rank == 0 ? "" : cat("rank ", log_settings().rank, ": ");
  {
    std::lock_guard lock(mutex);
    kept_warnings.push_back(who + line);
  }
  write_line(cat(colored("warning: ", "33"), who, line));
}

void log_progress(const std::string& line) {
  const LogSettings& settings = log_settings();
  if (!settings.terminal || settings.level < LogLevel::info || settings.rank != 0) return;
  std::lock_guard lock(mutex);
  const auto now = std::chrono::steady_clock::now();
  if (progress_shown && now - progress_time < std::chrono::milliseconds(100)) return;
  progress_time = now;
  progress_shown = true;
  const std::string text = kClearLine + line;
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

size_t log_columns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void log_warnings_box() {
  std::vector<std::string> lines;
  {
    std::lock_guard lock(mutex);
    lines.swap(kept_warnings);
  }
  if (!lines.empty()) write_line(colored(boxed(lines), "33"));
}

void log_failure(const std::string& text, Exit exit) {
  const int rank = log_settings().rank;
  const bool same_everywhere = exit == Exit::usage || exit == Exit::layout;
  if (rank != 0 && same_everywhere && rank_0_ends_the_job(rank)) return;
  const bool several =
      std::getenv("OMPI_COMM_WORLD_SIZE") && std::atoi(std::getenv("OMPI_COMM_WORLD_SIZE")) > 1;
  const std::string who = rank != 0 && same_everywhere  ? cat("rank ", rank, " on host ", host_name(), ": ")
                          : several && !same_everywhere ? cat("rank ", rank, ": ")
                                                        : "";
  // Every problem of a config is a line of its own.
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    write_line(cat(colored("jambalaya: ", "31"), who, text.substr(at, end - at)));
    at = end + 1;
  }
}

std::string boxed(const std::vector<std::string>& lines, size_t width) {
  std::vector<std::string> rows;
  for (const auto& line : lines) {
    const auto parts = wrapped(line, width - 6);
    for (size_t i = 0; i < parts.size(); i++) rows.push_back((i == 0 ? "! " : "  ") + parts[i]);
  }
  size_t widest = 0;
  for (const auto& row : rows) widest = std::max(widest, columns(row));
  const std::string rule = cat("+", std::string(widest + 2, '-'), "+");
  std::string out = rule;
  for (const auto& row : rows) out += cat("\n| ", row, std::string(widest - columns(row), ' '), " |");
  return out + "\n" + rule;
}

}  // namespace jambalaya
