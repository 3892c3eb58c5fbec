// What the console shows of a step: whole lines in a file, one line that is written over in a terminal.
#include "train/run/console.h"

#include <gtest/gtest.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/training_run.h"
#include "train/run/log.h"

namespace jambalaya {
namespace {

StepReport report_at(int64_t step) {
  StepReport r;
  r.step = step;
  r.steps = 200;
  r.loss = 3.5;
  r.gradient_norm = 0.871;
  r.lr = 6e-4;
  r.seconds = 0.5;
  r.tokens_per_s = 12400;
  r.ranks = 4;
  r.data_wait = 0.05;
  r.elapsed = 0.5 * double(step);
  r.rss = int64_t(1) << 30;
  return r;
}

/// What is written to standard error while `work` runs, as in a terminal or in a file.
std::string written(bool terminal, const std::function<void()>& work) {
  const LogSettings before = log_settings();
  log_settings() = {.level = LogLevel::info, .terminal = terminal};
  testing::internal::CaptureStderr();
  work();
  log_settings() = before;
  return testing::internal::GetCapturedStderr();
}

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) n++;
  return n;
}

TEST(Console, line_tells_place_speed_waits_and_time_left) {
  EXPECT_EQ(
      console_line(report_at(50)),
      "step 50/200 25.0% | loss 3.5000 | gnorm 0.871 | lr 6.00e-04 | 12.4k tok/s (3.1k/rank) | 0FLOP/s | "
      "mem 1.00 GiB | data 10.0% | 0.50 s/step | eta 0:01:15");
}

TEST(Console, progress_line_keeps_within_the_columns) {
  const std::string whole = progress_line(report_at(50), 200);
  EXPECT_TRUE(whole.starts_with("step 50/200 25.0% | loss 3.5000 | eta 0:01:15 | "));
  for (size_t columns = 0; columns < 200; columns++) {
    const std::string line = progress_line(report_at(50), columns);
    EXPECT_LE(line.size(), columns);
    EXPECT_TRUE(whole.starts_with(line));
    EXPECT_FALSE(line.ends_with("|") || line.ends_with(" "));
  }
}

TEST(Console, file_gets_whole_lines_of_reported_steps) {
  const std::string text = written(false, [] {
    for (int64_t step = 1; step <= 4; step++) tell_step(report_at(step), step % 2 == 0);
  });
  EXPECT_EQ(text, console_line(report_at(2)) + "\n" + console_line(report_at(4)) + "\n");
}

TEST(Console, terminal_gets_a_line_that_is_written_over) {
  const std::string text = written(true, [] {
    tell_step(report_at(1), true);
    StepReport evaluated = report_at(2);
    evaluated.held_out_nats = 1, evaluated.held_out_bits_per_byte = 2;
    tell_step(evaluated, false);
    tell_step(report_at(3), true);
    log_warning("careful");
  });
  StepReport evaluated = report_at(2);
  evaluated.held_out_bits_per_byte = 2;
  const std::string clear = "\r\x1b[K";
  EXPECT_EQ(text, clear + progress_line(report_at(1), log_columns() - 1) + clear + console_line(evaluated) +
                      "\n" + clear + progress_line(report_at(3), log_columns() - 1) + clear +
                      "warning: careful\n");
}

TEST(Console, lines_too_close_in_time_are_left_out_but_never_those_that_stay) {
  const std::string text = written(true, [] {
    for (int64_t step = 1; step <= 200; step++) tell_step(report_at(step), false);
  });
  EXPECT_LT(count(text, "\r"), 100u);
  EXPECT_TRUE(text.ends_with(console_line(report_at(200)) + "\n"));
}

/// The program's standard error in a terminal of 60 columns.
std::string in_a_terminal(const std::string& command) {
  winsize size{.ws_row = 24, .ws_col = 60};
  int master = -1;
  const pid_t child = forkpty(&master, nullptr, nullptr, &size);
  if (child == 0) {
    execl("/bin/sh", "sh", "-c", command.c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(master, buffer, sizeof buffer)) > 0;) text.append(buffer, size_t(n));
  int status = 0;
  waitpid(child, &status, 0);
  close(master);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << text;
  return text;
}

TEST(Console, program_rewrites_its_line_in_a_terminal_unless_it_is_dumb_or_in_ci) {
  int ends[2];
  if (openpty(&ends[0], &ends[1], nullptr, nullptr, nullptr) != 0)
    GTEST_SKIP() << "no pseudo-terminals here (is /dev/pts mounted?)";
  for (int end : ends) close(end);
  const test::TemporaryFolder folder;
  Config config =
      test::small_run(folder.path("run"), test::make_store(folder, "data", test::random_texts(60, 40, 1)));
  config.log.every = 1;
  std::ofstream(folder.path("config.yaml")) << to_yaml(config);
  const auto run = [&](const std::string& environment, const std::string& name) {
    return in_a_terminal(cat("env -u CI -u NO_COLOR ", environment, " " JAMBALAYA_PROGRAM " train '",
                             folder.path("config.yaml"), "' --set run.folder='", folder.path(name), "'"));
  };
  const std::string rewritten = run("TERM=xterm", "a");
  EXPECT_GE(count(rewritten, "\r\x1b[K"), 2u);
  EXPECT_EQ(count(rewritten, "step 5/12 41.7% | loss"), 1u) << "an evaluation stays";
  for (const char* environment : {"TERM=dumb", "TERM=xterm CI=1"}) {
    const std::string plain = run(environment, cat("b-", environment));
    EXPECT_EQ(count(plain, "\x1b"), 0u) << plain;
    EXPECT_EQ(count(plain, "| loss "), 12u) << plain;
  }
}

}  // namespace
}  // namespace jambalaya
