// The jambalaya program: parses, runs the command, and turns errors into messages and exit codes.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "kernels/error.h"
#include "parallel/communicator.h"
#include "train/commands/commands.h"
#include "train/run/log.h"

namespace jambalaya {
namespace {

struct Run {
  int operator()(const ShowText& show) const {
    std::fputs((show.text + "\n").c_str(), stdout);
    return 0;
  }
  int operator()(const TokenizerTrainOptions& o) const { return run_tokenizer_train(o); }
  int operator()(const TokenizerEncodeOptions& o) const { return run_tokenizer_encode(o); }
  int operator()(const TokenizerDecodeOptions& o) const { return run_tokenizer_decode(o); }
  int operator()(const DataEncodeOptions& o) const { return run_data_encode(o); }
  int operator()(const DataInspectOptions& o) const { return run_data_inspect(o); }
  int operator()(const TrainOptions& o) const { return run_train(o); }
  int operator()(const EvaluateOptions& o) const { return run_evaluate(o); }
  int operator()(const GenerateOptions& o) const { return run_generate(o); }
  int operator()(const ExportCommandOptions& o) const { return run_export(o); }
  int operator()(const ImportCommandOptions& o) const { return run_import(o); }
  int operator()(const CompareOptions& o) const { return run_compare(o); }
  int operator()(const CompareRunsOptions& o) const { return run_compare_runs(o); }
  int operator()(const ReportOptions& o) const { return run_report_command(o); }
  int operator()(const InspectOptions& o) const { return run_inspect(o); }
  int operator()(const DoctorOptions& o) const { return run_doctor(o); }
  int operator()(const ConfigOptions& o) const { return run_config(o); }
};

/// Commands whose work ranks share, or that tell of every rank; and texts. All others are one process: as
/// several they would write over each other's files.
bool may_be_many(const Command& command) {
  return std::holds_alternative<TrainOptions>(command) || std::holds_alternative<EvaluateOptions>(command) ||
         std::holds_alternative<GenerateOptions>(command) ||
         std::holds_alternative<CompareOptions>(command) || std::holds_alternative<DoctorOptions>(command) ||
         std::holds_alternative<ShowText>(command);
}

/// Runs the command and gives the exit code; every rank may fail, so each line says which one speaks.
int run(const std::vector<std::string>& arguments) {
  try {
    const CommandLine line = parse_command_line(arguments);
    log_settings().level = line.global.quiet     ? LogLevel::warning
                           : line.global.verbose ? LogLevel::debug
                                                 : LogLevel::info;
    if (launched_ranks() > 1 && !may_be_many(line.command)) {
      // The launcher ends all ranks when one fails: the others leave it to rank 0, which tells why.
      if (launched_rank() != 0) return 0;
      throw Error(Exit::usage, cat("this command is one process, and ", launched_ranks(),
                                   " were launched: start it without mpirun"));
    }
    return std::visit(Run{}, line.command);
  } catch (const Error& e) {
    log_failure(e.what(), e.exit());
    return int(e.exit());
  } catch (const std::logic_error& e) {
    log_failure(cat("this is a bug: ", e.what()), Exit::failed);
  } catch (const std::bad_alloc&) {
    log_failure("out of memory: take a smaller micro-batch, a shorter sequence or train.recompute=layer",
                Exit::failed);
  } catch (const std::exception& e) {
    log_failure(e.what(), Exit::failed);
  }
  return int(Exit::failed);
}

}  // namespace
}  // namespace jambalaya

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file beyond the limit (ulimit -f) is a failed write, told as such
  const int code = jambalaya::run({argv + 1, argv + argc});
  // A reader that went away or a full disk shows only here.
  const bool written = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  const int result = code == 0 && !written ? int(jambalaya::Exit::io) : code;
  jambalaya::finish_world(result);
  return result;
}
