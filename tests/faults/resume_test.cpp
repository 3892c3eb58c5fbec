// Every step is a place to go on from, and a damaged checkpoint never is: run as one rank and as two.
#include <algorithm>

#include "tests/support/ranks.h"
#include "tests/support/training_run.h"

namespace jambalaya {
namespace {

namespace fs = std::filesystem;
using test::checkpoint_path;
using test::metrics;
using test::read_file;
using test::world;

/// What rank 0 has made, on every rank.
class Resume : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    std::string path;
    if (world().rank() == 0) {
      folder_ = std::make_unique<test::TemporaryFolder>();
      path = folder_->path();
      test::make_store(*folder_, "data", test::random_texts(150, 90, 1));
    }
    broadcast_string(world(), path);
    root_ = path;
  }
  static void TearDownTestSuite() {
    world().barrier();
    folder_.reset();
  }
  static Config config(const std::string& name) {
    Config c = test::small_run(
        cat(root_, "/", testing::UnitTest::GetInstance()->current_test_info()->name(), "-", name),
        root_ + "/data");
    c.checkpoint.every = 1;
    c.checkpoint.keep_last = 100;
    return c;
  }
  /// Rank 0 alone touches files between runs; an exception there would leave the others waiting.
  static void on_rank_0(const std::function<void()>& work) {
    world().barrier();
    if (world().rank() == 0) work();
    world().barrier();
  }
  static std::unique_ptr<test::TemporaryFolder> folder_;
  static std::string root_;
};
std::unique_ptr<test::TemporaryFolder> Resume::folder_;
std::string Resume::root_;

/// Tensors, and all that a run has beside them, but the time that it took.
void expect_same_end(const Config& got, const Config& want, int64_t step) {
  const CheckpointInfo a = open_checkpoint(checkpoint_path(got.run.folder, step));
  const CheckpointInfo b = open_checkpoint(checkpoint_path(want.run.folder, step));
  EXPECT_EQ(test::difference(test::tensors_of(a), test::tensors_of(b)), "");
  EXPECT_EQ(a.state.step, b.state.step);
  EXPECT_EQ(a.state.tokens, b.state.tokens);
  EXPECT_EQ(a.state.optimizer_steps, b.state.optimizer_steps);
  EXPECT_EQ(a.state.loader, b.state.loader);
  EXPECT_EQ(a.state.loss_window, b.state.loss_window);
  EXPECT_EQ(metrics(got.run.folder), metrics(want.run.folder));
}

TEST_F(Resume, is_bit_exact_from_every_step) {
  Config c = config("whole");
  c.data.global_batch = 8 * world().size();  // two micro-batches a step
  c.data.length_schedule = {{0, 16}, {3, 32}, {7, 128}};
  c.train.spike_factor = 3;
  c.train.bad_step = BadStep::skip;
  c.optimizer.schedule = Schedule::wsd;
  c.optimizer.decay_share = 0.5;
  c.log.evaluate_every = 3;
  ASSERT_EQ(test::train(c), Exit::ok);
  ASSERT_EQ(int64_t(metrics(c.run.folder).size()), c.train.steps);
  for (int64_t step = 1; step < c.train.steps; step++) {
    SCOPED_TRACE(cat("from step ", step));
    Config again = c;
    again.run.folder = cat(c.run.folder, "-from-", step);
    on_rank_0([&] { test::copy_run(c.run.folder, again.run.folder, step); });
    EXPECT_EQ(test::train(again), Exit::ok);
    expect_same_end(again, c, c.train.steps);
    on_rank_0([&] { fs::remove_all(again.run.folder); });
  }
}

// ---- torn files ----

void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}
std::string refusal(const std::string& checkpoint) {
  try {
    open_checkpoint(checkpoint);
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::checkpoint);
    return e.what();
  }
  return "";
}
std::vector<std::string> files_of(const std::string& checkpoint) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(checkpoint))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

/// One way to damage a file of a checkpoint.
struct Damage {
  std::string what;
  std::function<void(const std::string& file)> make;
};
std::vector<Damage> damages(const std::string& good, const std::string& stale, int flips) {
  std::vector<Damage> all;
  const auto content = [&](const std::string& what, std::string bytes) {
    if (bytes == good) return;  // a config that has not changed since the other step
    all.push_back({what, [bytes = std::move(bytes)](const std::string& file) { write_file(file, bytes); }});
  };
  for (size_t n : {size_t(0), size_t(1), good.size() / 2, good.size() - 1})
    content(cat("cut to ", n, " bytes"), good.substr(0, n));
  content("one byte too many", good + '\0');
  for (int i = 0; i < flips; i++) {
    std::string flipped = good;
    const size_t at = size_t(i) * 7919 % good.size();
    flipped[at] = char(flipped[at] ^ (1 << i % 8));
    content(cat("bit ", i % 8, " of byte ", at, " flipped"), std::move(flipped));
  }
  content("that of another step", stale);
  all.push_back({"deleted", [](const std::string& file) { fs::remove(file); }});
  all.push_back({"a folder", [](const std::string& file) {
                   fs::remove(file);
                   fs::create_directory(file);
                 }});
  return all;
}

TEST_F(Resume, no_torn_file_is_ever_loaded) {
  Config c = config("run");
  c.train.steps = 3;
  ASSERT_EQ(test::train(c), Exit::ok);
  on_rank_0([&] {
    const std::string newest = checkpoint_path(c.run.folder, 3), before = checkpoint_path(c.run.folder, 2);
    const std::vector<std::string> names = files_of(newest);
    const int flips = 200 / world().size();
    EXPECT_EQ(names.size(), size_t(3 + world().size()));
    for (const std::string& name : names) {
      const std::string file = newest + "/" + name, good = read_file(file);
      int made = 0;
      for (const Damage& damage : damages(good, read_file(before + "/" + name), flips)) {
        damage.make(file);
        made++;
        std::string refused;
        const auto found = newest_checkpoint(c.run.folder + "/checkpoints", {}, &refused);
        EXPECT_EQ(found ? found->state.step : -1, 2) << name << ", " << damage.what;
        EXPECT_NE(refused.find("step-00000003/" + name), std::string::npos) << damage.what << ": " << refused;
        fs::remove_all(file);
        write_file(file, good);
      }
      EXPECT_GE(made, flips + 6) << name;
    }
    EXPECT_EQ(refusal(newest), "");
    if (world().size() > 1) {
      const std::string a = newest + "/rank-00000.h5", b = newest + "/rank-00001.h5";
      fs::rename(a, a + "x"), fs::rename(b, a), fs::rename(a + "x", b);
      EXPECT_NE(refusal(newest).find("rank-00000.h5"), std::string::npos);
    }
    // All files of another step, each of them whole.
    fs::remove_all(newest);
    fs::copy(before, newest);
    EXPECT_NE(refusal(newest).find("manifest.json: of step 2, but the folder is named for step 3"),
              std::string::npos);
  });
}

TEST_F(Resume, a_run_goes_on_from_the_checkpoint_before_a_torn_one) {
  Config c = config("whole");
  c.train.steps = 4;
  ASSERT_EQ(test::train(c), Exit::ok);
  Config again = c;
  again.run.folder = c.run.folder + "-torn";
  const std::string torn = checkpoint_path(again.run.folder, 3);
  for (const std::string& name : files_of(checkpoint_path(c.run.folder, 3))) {
    const std::string good = read_file(checkpoint_path(c.run.folder, 3) + "/" + name);
    const std::string stale = read_file(checkpoint_path(c.run.folder, 2) + "/" + name);
    for (const Damage& damage : damages(good, stale, 1)) {
      SCOPED_TRACE(name + ", " + damage.what);
      on_rank_0([&] {
        test::copy_run(c.run.folder, again.run.folder, 3);
        damage.make(torn + "/" + name);
      });
      EXPECT_EQ(test::train(again), Exit::ok);
      expect_same_end(again, c, 4);
      // The torn one was written anew on the way.
      EXPECT_EQ(refusal(torn), "");
      on_rank_0([&] { fs::remove_all(again.run.folder); });
    }
  }
}

TEST_F(Resume, what_killed_saves_left_goes_at_the_next_start) {
  Config c = config("run");
  c.train.steps = 3;
  ASSERT_EQ(test::train(c), Exit::ok);
  const std::string left[] = {c.run.folder + "/config.yaml.tmp-7", c.run.folder + "/checkpoints/latest.tmp-7",
                              checkpoint_path(c.run.folder, 3) + ".tmp-7-7"};
  on_rank_0([&] {
    for (const std::string& file : {left[0], left[1]}) write_file(file, "half");
    fs::create_directory(left[2]);
    write_file(left[2] + "/rank-00000.h5", "half");
  });
  EXPECT_EQ(test::train(c), Exit::ok);  // at its end already: nothing is saved
  for (const std::string& path : left) EXPECT_FALSE(fs::exists(path)) << path;
  world().barrier();
}

TEST_F(Resume, a_run_without_a_good_checkpoint_is_refused_and_says_why) {
  Config c = config("run");
  c.train.steps = 2;
  ASSERT_EQ(test::train(c), Exit::ok);
  on_rank_0([&] {
    for (int64_t step : {1, 2}) fs::remove(checkpoint_path(c.run.folder, step) + "/rank-00000.h5");
  });
  try {
    test::train(c);
    ADD_FAILURE() << "was not refused";
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::checkpoint);
    for (const char* part : {"no checkpoint of ", "step-00000001", "step-00000002", "rank-00000.h5"})
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
  world().barrier();
}

}  // namespace
}  // namespace jambalaya

int main(int argc, char** argv) { return jambalaya::test::run_ranks(argc, argv); }
