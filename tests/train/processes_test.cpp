// Runs as a user starts them: the jambalaya program, stopped by signals, and under mpirun as two ranks.
#include <gtest/gtest.h>
#include <signal.h>

#include <cmath>

#include "tests/support/process.h"

namespace jambalaya {
namespace {

using test::checkpoint_path;
using test::difference;
using test::losses;
using test::metrics;
using test::Process;
using test::tensors_of;
using test::train_command;
using test::wait_for_lines;

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

/// mpirun with one rank of each command.
std::string one_rank_each(const std::string& first, const std::string& second) {
  return cat(JAMBALAYA_MPIEXEC " --oversubscribe --bind-to none -n 1 ", first, " : -n 1 ", second);
}
int occurrences(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) count++;
  return count;
}

TEST_F(Processes, ranks_with_other_settings_or_data_are_refused) {
  const Config c = config("one-folder");
  const std::string command = train_command(c);
  const auto refused = [&](const std::string& name, const std::string& second, const std::string& text) {
    SCOPED_TRACE(name);
    Process process(folder_.path(name + ".log"), one_rank_each(command, second));
    EXPECT_EQ(process.wait(), int(Exit::usage)) << process.output();
    EXPECT_EQ(occurrences(process.output(), text), 1) << process.output();
    EXPECT_EQ(occurrences(process.output(), "the ranks do not agree"), 1) << process.output();
    EXPECT_FALSE(std::filesystem::exists(c.run.folder + "/checkpoints"));
  };
  refused("rate", command + " --set optimizer.lr=3e-2", "optimizer.lr is 0.003 on rank 0 on host ");
  // Other groups and other deadlines are noticed before they can matter.
  refused("layout", command + " --set parallel.tensor=2", "parallel.tensor is 1 on rank 0 on host ");
  refused("deadline", command + " --set parallel.deadline_s=0", "parallel.deadline_s is 600 on rank 0");
  // Two hosts, each with its own copy of data of the same name: here two working folders.
  const std::string relative = command + " --set data.folder=store";
  std::filesystem::create_directories(folder_.path("a"));
  std::filesystem::create_directories(folder_.path("b"));
  std::filesystem::rename(test::make_store(folder_, "x", test::random_texts(60, 90, 1)),
                          folder_.path("a/store"));
  std::filesystem::rename(test::make_store(folder_, "y", test::random_texts(60, 90, 2)),
                          folder_.path("b/store"));
  Process data(folder_.path("data.log"),
               cat(JAMBALAYA_MPIEXEC " --oversubscribe --bind-to none -n 1 --wdir '", folder_.path("a"), "' ",
                   relative, " : -n 1 --wdir '", folder_.path("b"), "' ", relative));
  EXPECT_EQ(data.wait(), int(Exit::usage)) << data.output();
  EXPECT_EQ(occurrences(data.output(), "data.folder = store holds other data on rank 1 on host "), 1)
      << data.output();
  // Threads may suit each host.
  Process threads(folder_.path("threads.log"), one_rank_each(command, command + " --set run.threads=2"));
  EXPECT_EQ(threads.wait(), 0) << threads.output();
  EXPECT_EQ(occurrences(threads.output(),
                        "layout data=2 context=1 tensor=1 expert=1 expert_tensor=1 "
                        "sequence=true sharding=none shard=1; "),
            1)
      << threads.output();
  EXPECT_EQ(occurrences(threads.output(), ": ranks 0-1"), 1) << threads.output();
}

TEST_F(Processes, an_error_of_one_rank_alone_is_told_with_its_rank_and_host) {
  const std::string command = train_command(config("typo"));
  Process process(folder_.path("typo.log"), one_rank_each(command, command + " --set optimizer.lr=fast"));
  EXPECT_EQ(process.wait(), int(Exit::usage)) << process.output();
  EXPECT_EQ(occurrences(process.output(), "jambalaya: rank 1 on host "), 1) << process.output();
  EXPECT_NE(process.output().find("optimizer.lr=fast"), std::string::npos) << process.output();
  // What all ranks have alike is still told once, without a rank.
  const std::string wrong = command + " --set optimizer.lr=fast";
  Process both(folder_.path("both.log"), one_rank_each(wrong, wrong));
  EXPECT_EQ(both.wait(), int(Exit::usage)) << both.output();
  EXPECT_EQ(occurrences(both.output(), "optimizer.lr=fast"), 1) << both.output();
  EXPECT_EQ(occurrences(both.output(), "rank 1 on host "), 0) << both.output();
}

TEST_F(Processes, what_the_file_system_throws_on_rank_0_ends_all_ranks_as_an_io_error) {
  const Config c = config("loop");
  std::filesystem::create_directories(c.run.folder);
  std::filesystem::create_directory_symlink("checkpoints", c.run.folder + "/checkpoints");  // of itself
  Process process(c, 2, "none");
  EXPECT_EQ(process.wait(), int(Exit::io)) << process.output();
  EXPECT_EQ(occurrences(process.output(), "this is a bug"), 0) << process.output();
}

TEST_F(Processes, a_model_beyond_the_memory_is_refused_by_host) {
  Config c = config("large");
  c.model.hidden_size = 1 << 16;
  c.model.intermediate_size = 1 << 18;
  c.model.num_experts = 64;
  Process process(c, 2);
  EXPECT_EQ(process.wait(), int(Exit::usage)) << process.output();
  EXPECT_EQ(occurrences(process.output(), "2 ranks on host "), 1) << process.output();
}

TEST_F(Processes, a_resume_on_other_ranks_tells_what_becomes_of_the_batch) {
  Config c = config("batch");
  c.train.steps = 4;
  expect_success(c, 2);
  const CheckpointInfo info = open_checkpoint(checkpoint_path(c.run.folder, 4));
  EXPECT_EQ(info.state.rows_per_step, 8);
  EXPECT_EQ(info.state.accumulation_steps, 1);
  EXPECT_EQ(info.state.layout,
            "data=2 context=1 tensor=1 expert=1 expert_tensor=1 sequence=true sharding=none shard=1");
  c.train.steps = 6;
  const std::string said = "! a step now has 4 rows, it had 8";  // in the box
  Process other(c, 1);
  EXPECT_EQ(other.wait(), 0);
  EXPECT_EQ(occurrences(other.output(), said), 1) << other.output();
  EXPECT_NE(other.output().find("set data.global_batch = 8 to keep them"), std::string::npos)
      << other.output();
  c.train.steps = 8;
  Process same(c, 1);
  EXPECT_EQ(same.wait(), 0);
  EXPECT_EQ(same.output().find("a step now has"), std::string::npos) << same.output();
}
#endif

}  // namespace
}  // namespace jambalaya
