// A small run that something happens to, and that must come to the end of the run that nothing happened to.
#pragma once
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>

#include "tests/support/process.h"

namespace jambalaya::test {

class FaultedRun : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = std::make_unique<TemporaryFolder>();
    data_ = make_store(*shared_, "data", random_texts(150, 90, 1));
  }
  static void TearDownTestSuite() { shared_.reset(); }

  Config config(const std::string& name) const {
    Config c = small_run(folder_.path(name), data_);
    c.run.device = "cpu";
    c.train.steps = 6;
    c.checkpoint.every = 2;
    c.checkpoint.keep_last = 100;
    c.log.evaluate_every = 3;
    return c;
  }

  /// The command on so many ranks, on a disk that `disk` (environment variables of bad_disk.cpp) makes worse.
  static std::string command(const Config& c, int ranks, const std::string& disk = "") {
    const std::string preload =
        disk.empty()
            ? ""
            : cat("env LD_PRELOAD=" JAMBALAYA_BAD_DISK " ASAN_OPTIONS=verify_asan_link_order=0 ", disk, " ");
    return cat(preload, launcher(ranks), train_command(c), " --resume auto");
  }
  static std::string log_of(const Config& c) { return c.run.folder + ".log"; }

  static std::map<int64_t, std::string> saved(const Config& c) {
    return checkpoints_of(c.run.folder + "/checkpoints");
  }
  static bool saving(const Config& c) {
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(c.run.folder + "/checkpoints", none))
      if (entry.is_directory(none) && entry.path().string().find(".tmp-") != std::string::npos) return true;
    return false;
  }
  /// Every checkpoint that has its name verifies.
  static void expect_all_whole(const Config& c) {
    for (const auto& [step, path] : saved(c)) EXPECT_EQ(open_checkpoint(path).state.step, step);
  }
  /// Resumed without any fault, the run ends with the bits of one that was never disturbed.
  void expect_recovers(const Config& c, int ranks) {
    expect_all_whole(c);
    Config calm = c;
    calm.run.folder = shared_->path(cat("calm-", ranks, "-", c.train.steps));
    if (!std::filesystem::exists(calm.run.folder)) {
      Process process(log_of(calm), command(calm, ranks));
      ASSERT_EQ(process.wait(), 0) << process.output();
    }
    Process process(log_of(c), command(c, ranks));
    ASSERT_EQ(process.wait(), 0) << process.output();
    EXPECT_EQ(difference(tensors_of(c.run.folder, c.train.steps), tensors_of(calm.run.folder, c.train.steps)),
              "");
    EXPECT_EQ(metrics(c.run.folder), metrics(calm.run.folder));
    for (const auto& entry : std::filesystem::recursive_directory_iterator(c.run.folder))
      EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << "left over: " << entry.path();
  }

  TemporaryFolder folder_;
  static inline std::unique_ptr<TemporaryFolder> shared_;  ///< data, and runs that nothing happened to
  static inline std::string data_;
};

}  // namespace jambalaya::test
