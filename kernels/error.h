// Errors that a user can meet, each with the exit code that the process ends with.
#pragma once
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace jambalaya {

/// Documented exit codes (docs/exit_codes.md). mpirun hands on the first non-zero one.
enum class Exit : int {
  ok = 0,
  failed = 1,          ///< a bug in Jambalaya: an internal check failed
  usage = 2,           ///< wrong command line or config
  bad_input = 3,       ///< corrupt or unusable input data
  layout = 4,          ///< the parallel layout is impossible here
  numerical = 5,       ///< stopped by the NaN/Inf/spike policy
  checkpoint = 6,      ///< checkpoint not found, torn or failed verification
  peer_lost = 7,       ///< a collective failed or passed its deadline: a rank was lost
  io = 74,             ///< I/O error, disk full
  stopped_saved = 75,  ///< stopped by a signal after saving: start again with --resume auto
};

/// An error to be shown to the user as it is: it names the place, the value, the rule and the fix.
class Error : public std::runtime_error {
 public:
  Error(Exit exit, const std::string& what) : std::runtime_error(what), exit_(exit) {}
  Exit exit() const { return exit_; }

 private:
  Exit exit_;
};

namespace detail {
inline void append(std::string& s, std::string_view v) { s += v; }
inline void append(std::string& s, const char* v) { s += v; }
inline void append(std::string& s, char v) { s += v; }
inline void append(std::string& s, bool v) { s += v ? "true" : "false"; }
void append(std::string& s, double v);  // shortest form that reads back the same
template <class T>
requires std::is_integral_v<T>
void append(std::string& s, T v) { s += std::to_string(v); }
}  // namespace detail

/// Joins its arguments into one string: cat("rank ", 3, " of ", 8). Numbers in plain decimal.
template <class... Args>
std::string cat(const Args&... args) {
  std::string s;
  (detail::append(s, args), ...);
  return s;
}

[[noreturn]] void check_failed(const char* expression, const char* file, int line, const std::string& why);

/// Internal invariant: a violation is a bug of ours (exit 1), never the user's fault.
#define JAMBALAYA_CHECK(condition, ...)                                                         \
  do {                                                                                          \
    if (!(condition))                                                                           \
      ::jambalaya::check_failed(#condition, __FILE__, __LINE__, ::jambalaya::cat(__VA_ARGS__)); \
  } while (0)

}  // namespace jambalaya
