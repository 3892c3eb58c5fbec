// Runs as a user starts them: the jambalaya program, stopped by signals, and under mpirun as two ranks.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <thread>

#include "tests/support/training_run.h"

namespace jambalaya {
namespace {

using test::checkpoint_path;
using test::difference;
using test::losses;
using test::metrics;
using test::tensors_of;

/// Starts `jambalaya train` on this many ranks, its output in run.folder + ".log".
class Process {
 public:
  Process(const Config& config, int ranks, const std::string& resume = "auto")
      : log_(config.run.folder + ".log") {
    const std::string file = config.run.folder + ".yaml";
    std::ofstream(file) << to_yaml(config);
    std::string line = cat(
        "exec ", ranks > 1 ? cat(JAMBALAYA_MPIEXEC " -n ", ranks, " --oversubscribe --bind-to none ") : "",
        JAMBALAYA_PROGRAM " train '", file, "' --resume ", resume, " > '", log_, "' 2>&1");
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
  /// The exit code, or 128 + the signal that ended it.
  int wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    ended_ = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  void send(int signal) const { kill(pid_, signal); }
  std::string output() const { return test::read_file(log_); }

 private:
  std::string log_;
  pid_t pid_ = -1;
  bool ended_ = false;
};

bool wait_for_lines(const std::string& run_folder, size_t lines) {
  for (int i = 0; i < 6000; i++) {
    if (metrics(run_folder).size() >= lines) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

class Processes : public testing::Test {
 protected:
  void SetUp() override { data_ = test::make_store(folder_, "data", test::random_texts(150, 90, 1)); }
  Config config(const std::string& name) const { return test::small_run(folder_.path(name), data_); }
  static void expect_success(const Config& c, int ranks, const std::string& resume = "auto") {
    Process process(c, ranks, resume);
    EXPECT_EQ(process.wait(), 0) << process.output();
  }
  test::TemporaryFolder folder_;
  std::string data_;
};

TEST_F(Processes, signal_saves_and_resume_ends_as_if_there_had_been_none) {
  for (int signal : {SIGUSR1, SIGTERM}) {
    Config c = config(cat("stopped-", signal)), whole = config(cat("whole-", signal));
    c.train.steps = whole.train.steps = 3000;
    c.checkpoint.every = whole.checkpoint.every = 3000;
    c.log.evaluate_every = whole.log.evaluate_every = 1000;
    c.optimizer.lr = whole.optimizer.lr = 1e-4;
    Process first(c, 1);
    ASSERT_TRUE(wait_for_lines(c.run.folder, 5)) << first.output();
    first.send(signal);
    EXPECT_EQ(first.wait(), int(Exit::stopped_saved)) << first.output();
    const int64_t reached = int64_t(metrics(c.run.folder).size());
    ASSERT_LT(reached, 3000) << "the run was over before the signal came";
    ASSERT_TRUE(std::filesystem::exists(checkpoint_path(c.run.folder, reached)));
    // A short way on from there, beside a run that was never stopped.
    c.train.steps = whole.train.steps = 3000;
    c.checkpoint.every = whole.checkpoint.every = reached + 20;
    for (Config* run : {&c, &whole}) {
      Process process(*run, 1);
      ASSERT_TRUE(wait_for_lines(run->run.folder, size_t(reached + 25)));
      process.send(SIGTERM);
      EXPECT_EQ(process.wait(), int(Exit::stopped_saved));
    }
    EXPECT_EQ(difference(tensors_of(c.run.folder, reached + 20), tensors_of(whole.run.folder, reached + 20)),
              "");
    const std::vector<std::string> a = metrics(c.run.folder), b = metrics(whole.run.folder);
    EXPECT_EQ(std::vector<std::string>(a.begin(), a.begin() + reached + 20),
              std::vector<std::string>(b.begin(), b.begin() + reached + 20));
  }
}

#ifdef JAMBALAYA_MPIEXEC
TEST_F(Processes, two_ranks_train_as_one_with_twice_the_rows) {
  Config one = config("one"), two = config("two");
  for (Config* c : {&one, &two}) {
    c->model.act_loss_alpha = 0.01;
    c->model.router_z_loss_coef = 0.001;
    c->model.aux_mode = AuxMode::per_layer;
    c->data.global_batch = 16;
    c->optimizer.eps = 1e-4;  // keeps the roundings of tiny gradients out of the updates
    c->train.bucket_mb = 1;
  }
  one.data.micro_batch = 8;
  expect_success(one, 1);
  expect_success(two, 2);
  const std::vector<double> a = losses(one.run.folder), b = losses(two.run.folder);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); i++) EXPECT_NEAR(a[i], b[i], 2e-5) << "step " << i + 1;
  const test::Tensors x = tensors_of(one.run.folder, 12), y = tensors_of(two.run.folder, 12);
  ASSERT_EQ(x.size(), y.size());
  for (const auto& [name, values] : x) {
    double error = 0, norm = 0;
    for (size_t i = 0; i < values.size(); i++) {
      error += std::pow(double(values[i]) - double(y.at(name)[i]), 2);
      norm += std::pow(double(values[i]), 2);
    }
    EXPECT_LE(std::sqrt(error), 1e-3 * std::sqrt(norm)) << name;
  }
}

TEST_F(Processes, ranks_hold_the_same_bits) {
  // A checkpoint has half of its tensors from either rank. If the ranks' parameters or moments differed
  // anywhere, ranks that start from it would not go on as those that wrote it.
  Config c = config("whole");
  c.train.recompute = Recompute::layer;
  expect_success(c, 2);
  EXPECT_EQ(open_checkpoint(checkpoint_path(c.run.folder, 4)).world_size, 2);
  for (int64_t step : {4, 8}) {
    Config again = c;
    again.run.folder = folder_.path(cat("from-", step));
    test::copy_run(c.run.folder, again.run.folder, step);
    expect_success(again, 2);
    EXPECT_EQ(difference(tensors_of(again.run.folder, 12), tensors_of(c.run.folder, 12)), "") << step;
    EXPECT_EQ(metrics(again.run.folder), metrics(c.run.folder)) << step;
  }
  Config repeated = c;
  repeated.run.folder = folder_.path("repeated");
  expect_success(repeated, 2);
  EXPECT_EQ(metrics(repeated.run.folder), metrics(c.run.folder));
  // One rank goes on from what two wrote.
  Config alone = c;
  alone.run.folder = folder_.path("alone");
  test::copy_run(c.run.folder, alone.run.folder, 8);
  alone.data.micro_batch = 8;
  expect_success(alone, 1);
  const std::vector<double> a = losses(alone.run.folder), b = losses(c.run.folder);
  for (size_t i = 0; i < b.size(); i++) EXPECT_NEAR(a[i], b[i], 1e-3) << "step " << i + 1;
}

TEST_F(Processes, codes_of_all_ranks_reach_the_shell) {
  Config c = config("refused");
  c.data.global_batch = 12;  // of 2 x 4 rows
  Process usage(c, 2);
  EXPECT_EQ(usage.wait(), int(Exit::usage)) << usage.output();
  EXPECT_NE(usage.output().find("data.global_batch = 12"), std::string::npos) << usage.output();

  Config layout = config("layout");
  layout.parallel.data = 3;
  Process impossible(layout, 2);
  EXPECT_EQ(impossible.wait(), int(Exit::layout)) << impossible.output();
  EXPECT_NE(impossible.output().find("data=2 context=1 tensor=1"), std::string::npos) << impossible.output();
  layout.parallel = {.tensor = 2};
  layout.model.num_attention_heads = layout.model.num_key_value_heads = 1;
  Process uncut(layout, 2);
  EXPECT_EQ(uncut.wait(), int(Exit::layout)) << uncut.output();
  EXPECT_NE(uncut.output().find("tensor = 2 does not divide the 1 attention heads"), std::string::npos)
      << uncut.output();

  Config bad = config("bad");
  bad.train.steps = 4;
  expect_success(bad, 2);
  test::edit_checkpoint(bad.run.folder, 4,
                        [](test::Tensors& all) { all.at("param/lm_head.weight")[7] = NAN; });
  bad.train.steps = 8;
  Process numerical(bad, 2);
  EXPECT_EQ(numerical.wait(), int(Exit::numerical)) << numerical.output();
}
#endif

}  // namespace
}  // namespace jambalaya
