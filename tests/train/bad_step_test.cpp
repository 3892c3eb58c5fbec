// What a run does about a step that would harm it. The harm is real: a weight of a checkpoint is made NaN;
// where it is the embedding of a letter that one document alone holds, only the steps that read that document
// are bad.
#include "train/run/bad_step.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "data/loader.h"
#include "tests/support/training_run.h"

namespace jambalaya {
namespace {

using test::checkpoint_path;
using test::metrics;
using test::train;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class BadStepRun : public testing::Test {
 protected:
  /// A run of four steps whose checkpoint has a NaN in `tensor`, in the row of `letter`, to go on to `steps`.
  Config poisoned(const std::string& tensor, char letter, int64_t steps) {
    std::vector<std::string> texts = test::random_texts(150, 90, 1);
    for (size_t i = 40; i < 43; i++) texts[i] += "Z";  // at most so many batches hold it in an epoch
    const std::string data = test::make_store(folder_, "data", texts);
    Config c = test::small_run(folder_.path("run"), data);
    c.train.steps = 4;
    // Seeds are tried until the first four steps pass the letter by and the next ones meet it; common letters
    // are everywhere.
    while (letter == 'Z' && c.run.seed < 1000 && !meets(c, letter, 4, 8)) c.run.seed++;
    EXPECT_LT(c.run.seed, 1000u);
    train(c);
    test::edit_checkpoint(c.run.folder, 4, [&](test::Tensors& all) {
      std::fill_n(all.at("param/" + tensor).begin() + (letter + 4) * 16, 16, kNan);
    });
    c.train.steps = steps;
    return c;
  }
  /// True when batches [0, from) are free of the letter and one of [from, to) holds it.
  static bool meets(const Config& c, char letter, int64_t from, int64_t to) {
    const Dataset dataset(c.data.folder);
    Loader loader(dataset.train(), {.seed = c.run.seed,
                                    .sequence_length = c.data.sequence_length,
                                    .rows = c.data.micro_batch,
                                    .chunk = c.data.sequence_length});
    bool before = false, after = false;
    for (int64_t step = 0; step < to; step++) {
      const HostBatch batch = loader.next();
      const bool found = std::find(batch.ids.begin(), batch.ids.end(), letter + 4) != batch.ids.end();
      (step < from ? before : after) |= found;
    }
    return !before && after;
  }
  static int64_t skipped(const Config& c) {
    int64_t n = 0;
    for (const std::string& line : metrics(c.run.folder)) n += line.find("\"skipped\"") != std::string::npos;
    return n;
  }
  test::TemporaryFolder folder_;
};

TEST_F(BadStepRun, stop_ends_with_the_documented_code_and_keeps_the_checkpoint) {
  Config c = poisoned("lm_head.weight", 'a', 12);
  try {
    train(c);
    ADD_FAILURE() << "trained through a NaN";
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::numerical);
    EXPECT_NE(std::string(e.what()).find("step 5"), std::string::npos) << e.what();
  }
  EXPECT_FALSE(std::filesystem::exists(checkpoint_path(c.run.folder, 8)));
  EXPECT_EQ(metrics(c.run.folder).size(), 4u);
}

TEST_F(BadStepRun, skip_leaves_the_update_out_and_says_so) {
  Config c = poisoned("embed_tokens.weight", 'Z', 12);
  c.train.bad_step = BadStep::skip;
  EXPECT_EQ(train(c), Exit::ok);
  EXPECT_EQ(metrics(c.run.folder).size(), 12u);
  EXPECT_GE(skipped(c), 1);
  EXPECT_LT(skipped(c), 8);
  const CheckpointInfo info = open_checkpoint(checkpoint_path(c.run.folder, 12));
  EXPECT_EQ(info.state.optimizer_steps, 12 - skipped(c));
  EXPECT_EQ(info.state.tokens, LoaderState::parse(info.state.loader).position);
  // Nothing but the poisoned row became NaN.
  for (const auto& [name, values] : test::tensors_of(info)) {
    int64_t bad = 0;
    for (float v : values) bad += !std::isfinite(v);
    EXPECT_EQ(bad, name == "param/embed_tokens.weight" ? 16 : 0) << name;
  }
}

TEST_F(BadStepRun, skipped_steps_leave_every_tensor_alone) {
  Config c = poisoned("lm_head.weight", 'a', 8);
  const test::Tensors before = test::tensors_of(c.run.folder, 4);
  c.train.bad_step = BadStep::skip;
  EXPECT_EQ(train(c), Exit::ok);
  EXPECT_EQ(skipped(c), 4);
  EXPECT_EQ(test::difference(test::tensors_of(c.run.folder, 8), before), "");
}

TEST_F(BadStepRun, rewind_goes_back_and_past_the_batches) {
  Config c = poisoned("embed_tokens.weight", 'Z', 12);
  c.train.bad_step = BadStep::rewind;
  EXPECT_EQ(train(c), Exit::ok);
  EXPECT_EQ(skipped(c), 0);
  const std::vector<std::string> lines = metrics(c.run.folder);
  ASSERT_EQ(lines.size(), 12u);  // what was taken back is gone from the log
  for (size_t i = 0; i < lines.size(); i++)
    EXPECT_NE(lines[i].find(cat("\"step\": ", int64_t(i) + 1, ",")), std::string::npos) << lines[i];
  const CheckpointInfo info = open_checkpoint(checkpoint_path(c.run.folder, 12));
  const int64_t position = LoaderState::parse(info.state.loader).position;
  EXPECT_GT(position, 12 * 4 * 32);
  EXPECT_EQ(info.state.tokens, position);  // batches that were passed over are consumed
  EXPECT_EQ(info.state.optimizer_steps, 12);
}

TEST_F(BadStepRun, rewind_gives_up_when_every_batch_is_bad) {
  Config c = poisoned("lm_head.weight", 'a', 12);
  c.train.bad_step = BadStep::rewind;
  try {
    train(c);
    ADD_FAILURE() << "trained through a NaN";
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::numerical);
    EXPECT_NE(std::string(e.what()).find("rewinds"), std::string::npos) << e.what();
  }
}

TEST(BadStepDetector, finds_what_is_no_number_at_once) {
  BadStepDetector detector(0);
  EXPECT_EQ(detector.judge(3, 1), "");
  EXPECT_NE(detector.judge(double(kNan), 1), "");
  EXPECT_NE(detector.judge(3, double(kNan)), "");
  EXPECT_NE(detector.judge(INFINITY, 1), "");
  EXPECT_NE(detector.judge(3, INFINITY), "");
  EXPECT_EQ(detector.judge(1e30, 1), "");  // spikes are not asked for
  EXPECT_EQ(detector.window(), (std::vector<double>{3, 1e30}));
}

TEST(BadStepDetector, finds_spikes_above_the_recent_losses) {
  BadStepDetector detector(5);
  for (int i = 0; i < 200; i++)
    EXPECT_EQ(detector.judge(3 + 0.1 * (i % 3), 1), "") << i;  // median 3.1, MAD 0.1
  EXPECT_EQ(detector.window().size(), BadStepDetector::kWindow);
  EXPECT_EQ(detector.judge(3.55, 1), "");
  EXPECT_NE(detector.judge(3.65, 1), "");
  EXPECT_EQ(detector.judge(1, 1), "");  // a fall is none
  BadStepDetector resumed(5);
  resumed.restore(detector.window());
  EXPECT_NE(resumed.judge(3.65, 1), "");
  BadStepDetector young(5);
  EXPECT_EQ(young.judge(3, 1), "");
  EXPECT_EQ(young.judge(300, 1), "");  // too few losses to know what is usual
}

}  // namespace
}  // namespace jambalaya
