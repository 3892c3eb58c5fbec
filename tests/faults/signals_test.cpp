// Signals at every stage of a run, and two jobs in one folder.
#include "tests/faults/faulted_run.h"

namespace jambalaya {
namespace {

using test::metrics;
using test::Process;
using test::wait_until;

constexpr const char* kSlow = "SLOW_DISK_MS=40";  // a save then takes most of a second

class Signals : public test::FaultedRun {
 protected:
  /// Saved where it stopped, said so, ended with 75.
  void expect_saved_and_left(const Config& c, Process& process) {
    EXPECT_EQ(process.wait(), int(Exit::stopped_saved)) << process.output();
    ASSERT_FALSE(saved(c).empty()) << process.output();
    const int64_t step = saved(c).rbegin()->first;
    EXPECT_EQ(int64_t(metrics(c.run.folder).size()), step);
    EXPECT_NE(process.output().find(cat("checkpoint step ", step, " is saved")), std::string::npos)
        << process.output();
    EXPECT_LT(step, c.train.steps) << "the run was over before the signal came";
  }
  /// Three runs side by side on a slow disk, each sent its signal as soon as `moment` has come for it.
  void expect_each_saves_at(int64_t step, const std::function<bool(const Config&)>& moment) {
    const std::vector<int> signals = {SIGTERM, SIGUSR1, SIGINT};
    std::vector<Config> configs;
    std::vector<std::unique_ptr<Process>> processes;
    for (int signal : signals) {
      configs.push_back(config(cat("signal-", signal)));
      const Config& c = configs.back();
      processes.push_back(std::make_unique<Process>(log_of(c), command(c, 1, kSlow)));
    }
    for (size_t i = 0; i < signals.size(); i++) {
      ASSERT_TRUE(wait_until([&] { return moment(configs[i]); })) << processes[i]->output();
      processes[i]->send(signals[i]);
    }
    for (size_t i = 0; i < signals.size(); i++) {
      SCOPED_TRACE(cat("signal ", signals[i]));
      expect_saved_and_left(configs[i], *processes[i]);
      EXPECT_EQ(saved(configs[i]).rbegin()->first, step);
      expect_recovers(configs[i], 1);
    }
  }
  /// Data of which most documents are held out.
  std::string all_held_out() {
    const std::string file = test::write_json_lines(folder_, "held.jsonl", test::random_texts(400, 90, 3));
    const std::string store = folder_.path("held-data");
    if (!std::filesystem::exists(store))
      encode_dataset({file}, store, test::byte_tokenizer(), test::encode_bytes, {.held_out_share = 0.9}, 1);
    return store;
  }
};

TEST_F(Signals, during_the_start_end_the_run_before_its_first_step) {
  // The lock is taken after signals are watched, and long before the first step on this disk.
  expect_each_saves_at(0, [](const Config& c) { return std::filesystem::exists(c.run.folder + "/.lock"); });
}

TEST_F(Signals, during_a_save_let_it_end) {
  expect_each_saves_at(2, [](const Config& c) { return saving(c); });
}

TEST_F(Signals, second_interrupt_ends_a_save_at_once_and_harms_nothing) {
  for (bool other_between : {false, true}) {
    const Config c = config(cat("twice-", other_between));
    Process process(log_of(c), command(c, 1, kSlow));
    ASSERT_TRUE(wait_until([&] { return saved(c).size() == 1 && saving(c); })) << process.output();
    process.send(SIGINT);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // two at once are one
    if (other_between) process.send(SIGTERM);
    if (other_between) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    process.send(SIGINT);
    EXPECT_EQ(process.wait(), 130) << process.output();
    EXPECT_TRUE(saving(c)) << "the save was over before the signals came";
    EXPECT_EQ(saved(c).size(), 1u);
    expect_recovers(c, 1);
  }
}

TEST_F(Signals, during_steps_and_evaluations_save_where_they_come) {
  for (int signal : {SIGTERM, SIGUSR1, SIGINT})
    for (bool evaluating : {false, true}) {
      SCOPED_TRACE(cat(signal, evaluating));
      Config c = config(cat("step-", signal, evaluating));
      c.train.steps = 30;
      c.checkpoint.every = 10;
      // One of the two takes nearly all of the time.
      c.log.evaluate_every = evaluating ? 1 : 1000;
      c.log.evaluate_tokens = evaluating ? 0 : 32;
      c.data.sequence_length = evaluating ? 32 : 512;
      if (evaluating) c.data.folder = all_held_out();
      Process process(log_of(c), command(c, 1));
      ASSERT_TRUE(test::wait_for_lines(c.run.folder, 2)) << process.output();
      process.send(signal);
      expect_saved_and_left(c, process);
      expect_all_whole(c);
    }
}

#ifdef JAMBALAYA_MPIEXEC
TEST_F(Signals, one_signalled_rank_is_enough) {
  const Config c = config("one-rank");
  // Rank 1 signals itself as soon as a save has begun.
  const std::string script = folder_.write(
      "rank.sh",
      cat("if [ $OMPI_COMM_WORLD_RANK = 1 ]; then\n  ( while ! ls -d '", c.run.folder,
          "'/checkpoints/*.tmp-* >/dev/null 2>&1; do sleep 0.01; done; kill -USR1 $$ ) &\nfi\nexec ",
          test::train_command(c), " --resume auto\n"));
  Process process(log_of(c),
                  cat("env LD_PRELOAD=" JAMBALAYA_BAD_DISK " ASAN_OPTIONS=verify_asan_link_order=0 ", kSlow,
                      " ", test::launcher(2), "sh '", script, "'"));
  expect_saved_and_left(c, process);
  expect_recovers(c, 2);
}

TEST_F(Signals, usr1_to_mpirun_during_a_save_reaches_the_ranks) {
  const Config c = config("mpirun");
  Process process(log_of(c), command(c, 2, kSlow));
  ASSERT_TRUE(wait_until([&] { return saving(c); })) << process.output();
  process.send(SIGUSR1);
  expect_saved_and_left(c, process);
  expect_recovers(c, 2);
}
#endif

// ---- two jobs in one folder ----

TEST_F(Signals, second_job_in_a_run_folder_is_refused_and_harms_nothing) {
  std::vector<int> ranks = {1};
#ifdef JAMBALAYA_MPIEXEC
  ranks.push_back(2);
#endif
  for (int n : ranks) {
    SCOPED_TRACE(cat(n, " ranks"));
    Config c = config(cat("shared-", n));
    c.train.steps = 60, c.checkpoint.every = 10;  // some ten seconds on this disk
    Process first(log_of(c), command(c, n, kSlow));
    ASSERT_TRUE(wait_until([&] { return saved(c).size() == 1; })) << first.output();
    Process second(folder_.path("second.log"), command(c, n));
    EXPECT_EQ(second.wait(), int(Exit::usage)) << second.output();
    EXPECT_NE(second.output().find("another job is writing to this run folder"), std::string::npos)
        << second.output();
    first.send(SIGUSR1);
    expect_saved_and_left(c, first);
    expect_recovers(c, n);
  }
}

TEST_F(Signals, lock_of_a_killed_job_is_free_at_once) {
  const Config c = config("killed");
  Process first(log_of(c), command(c, 1, kSlow));
  ASSERT_TRUE(wait_until([&] { return saved(c).size() == 1; })) << first.output();
  first.send(SIGKILL);
  EXPECT_EQ(first.wait(), 128 + SIGKILL);
  expect_recovers(c, 1);
}

}  // namespace
}  // namespace jambalaya
