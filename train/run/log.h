// Lines on the console: on standard error, from the lead rank, so that standard output holds answers alone. A
// logging library would bring sinks, formatters and a background thread; a run writes one line every few
// seconds.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/error.h"

namespace jambalaya {

enum class LogLevel : uint8_t { error, warning, info, debug };

struct LogSettings {
  LogLevel level = LogLevel::info;
  bool color = false;     ///< a terminal, and neither NO_COLOR nor TERM=dumb; FORCE_COLOR overrules
  bool terminal = false;  ///< progress lines may be rewritten in place
  int rank = 0;           ///< from the launcher's environment; only rank 0 writes info and debug lines
};
/// Of this process; set up from the environment at first use.
LogSettings& log_settings();
/// "error", "warning", "info" or "debug"; the config has checked the word.
LogLevel log_level_of(const std::string& word);
/// The rank that the launcher gave to this process, known before MPI is started; 0 without a launcher.
int launched_rank();

void log_info(const std::string& line);
void log_debug(const std::string& line);
/// Kept for the box as well, since a warning at the start scrolls away.
void log_warning(const std::string& line);
/// In a terminal (LogSettings::terminal), from rank 0: a line that the next one, of either kind, writes over;
/// at most ten a second. Elsewhere nothing.
void log_progress(const std::string& line);
/// Of the terminal; 80 where that is not known.
size_t log_columns();
/// All warnings so far in one box; then they are forgotten. Nothing when there are none.
void log_warnings_box();
/// "jambalaya: …" for the user, every rank with its number. Usage and layout errors are equal on all ranks as
/// a rule and told by rank 0: another rank waits for the end of the job, which rank 0 then brings about, and
/// tells its own, with rank and host, when that does not come.
void log_failure(const std::string& text, Exit exit);

/// The box of log_warnings_box as text, lines cut at words to `width` columns.
std::string boxed(const std::vector<std::string>& lines, size_t width = 100);

}  // namespace jambalaya
