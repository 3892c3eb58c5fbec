// Programs as a user starts them, alone or under mpirun, to be waited for and sent signals.
#pragma once
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#include "tests/support/training_run.h"

namespace jambalaya::test {

/// "mpirun -n RANKS ... " to put before a command; nothing for one rank.
inline std::string launcher([[maybe_unused]] int ranks) {
#ifdef JAMBALAYA_MPIEXEC
  if (ranks > 1) return cat(JAMBALAYA_MPIEXEC " -n ", ranks, " --oversubscribe --bind-to none ");
#endif
  return "";
}

/// The config written beside its run folder, and the command that trains with it.
inline std::string train_command(const Config& config) {
  const std::string file = config.run.folder + ".yaml";
  std::ofstream(file) << to_yaml(config);
  return cat(JAMBALAYA_PROGRAM " train '", file, "'");
}

class Process {
 public:
  /// `jambalaya train` on this many ranks, its output in run.folder + ".log".
  Process(const Config& config, int ranks, const std::string& resume = "auto")
      : Process(config.run.folder + ".log",
                cat(launcher(ranks), train_command(config), " --resume ", resume)) {}
  /// A command of the shell, its output in `log`.
  Process(const std::string& log, const std::string& command) : log_(log) {
    const std::string line = cat("exec ", command, " > '", log_, "' 2>&1");
    pid_ = fork();
    if (pid_ == 0) {
      setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
      setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
      setenv("OMPI_MCA_mpi_yield_when_idle", "1", 1);
      execl("/bin/sh", "sh", "-c", line.c_str(), static_cast<char*>(nullptr));
      _exit(127);
    }
  }
  ~Process() {
    if (!ended_) kill(pid_, SIGKILL);
    if (!ended_) wait();
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  /// The exit code, or 128 + the signal that ended it.
  int wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    ended_ = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  void send(int signal) const { kill(pid_, signal); }
  std::string output() const { return read_file(log_); }

 private:
  std::string log_;
  pid_t pid_ = -1;
  bool ended_ = false;
};

/// True as soon as `done` is, false when it is not within a minute.
template <class Condition>
bool wait_until(const Condition& done) {
  for (int i = 0; i < 6000; i++) {
    if (done()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}
inline bool wait_for_lines(const std::string& run_folder, size_t lines) {
  return wait_until([&] { return metrics(run_folder).size() >= lines; });
}

}  // namespace jambalaya::test
