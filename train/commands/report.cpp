// jambalaya report: the page of a run, from what its folder holds.
#include <filesystem>

#include "train/commands/commands.h"
#include "train/files.h"
#include "train/report/run_report.h"
#include "train/run/log.h"

namespace jambalaya {

int run_report_command(const ReportOptions& o) {
  const std::string output = o.output.empty() ? o.folder + "/report.html" : o.output;
  if (std::filesystem::is_directory(output))
    throw Error(Exit::usage,
                cat("--output ", output, " is a folder: name a file, such as ", output, "/report.html"));
  write_run_report(read_run(o.folder), output);
  log_info(cat("wrote ", output));
  return 0;
}

}  // namespace jambalaya
