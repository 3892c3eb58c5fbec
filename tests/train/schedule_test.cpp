// Learning rate and sequence length over the steps: warm-up, the shapes after it, the ends.
#include "train/run/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "tests/support/files.h"
#include "train/json.h"

namespace jambalaya {
namespace {

OptimizerSection settings(Schedule schedule, double lr = 2, int64_t warmup = 4, double final_lr = 0.1) {
  OptimizerSection o;
  o.schedule = schedule;
  o.lr = lr;
  o.warmup_steps = warmup;
  o.final_lr = final_lr;
  return o;
}

constexpr Schedule kAll[] = {Schedule::cosine, Schedule::wsd, Schedule::constant};

TEST(LearningRate, warm_up_is_linear_and_ends_at_the_peak) {
  for (Schedule schedule : kAll)
    for (int64_t warmup : {1, 4, 7}) {
      const OptimizerSection o = settings(schedule, 3, warmup);
      for (int64_t step = 0; step < warmup; step++)
        EXPECT_DOUBLE_EQ(learning_rate(o, step, 1000), 3.0 * double(step + 1) / double(warmup));
    }
}

TEST(LearningRate, run_shorter_than_its_warm_up_stays_on_the_ramp) {
  for (Schedule schedule : kAll) EXPECT_DOUBLE_EQ(learning_rate(settings(schedule, 1, 100), 9, 10), 0.1);
}

TEST(LearningRate, without_warm_up_the_first_step_has_the_peak) {
  for (Schedule schedule : kAll) EXPECT_DOUBLE_EQ(learning_rate(settings(schedule, 2, 0), 0, 50), 2);
}

TEST(LearningRate, last_step_has_the_final_rate_and_later_ones_keep_it) {
  for (Schedule schedule : {Schedule::cosine, Schedule::wsd})
    for (double final_lr : {0.0, 0.1, 1.0})
      for (int64_t steps : {6, 37, 1000}) {
        const OptimizerSection o = settings(schedule, 2, 4, final_lr);
        EXPECT_NEAR(learning_rate(o, steps - 1, steps), 2 * final_lr, 1e-12) << steps;
        EXPECT_NEAR(learning_rate(o, steps + 20, steps), 2 * final_lr, 1e-12) << steps;
      }
}

TEST(LearningRate, cosine_is_half_way_down_in_the_middle) {
  // From the last warm-up step (4) to the last step (24): 20 steps, the middle at 14, the quarter at 9.
  const OptimizerSection o = settings(Schedule::cosine, 1, 5, 0.2);
  EXPECT_NEAR(learning_rate(o, 14, 25), 0.6, 1e-12);
  EXPECT_NEAR(learning_rate(o, 9, 25), 0.2 + 0.8 * (0.5 + std::numbers::sqrt2 / 4), 1e-12);
  // The curve is symmetric about its middle.
  for (int64_t d = 1; d <= 10; d++)
    EXPECT_NEAR(learning_rate(o, 14 - d, 25) + learning_rate(o, 14 + d, 25), 1.2, 1e-12) << d;
}

TEST(LearningRate, warmup_stable_decay_is_flat_then_straight) {
  OptimizerSection o = settings(Schedule::wsd, 2, 10, 0.1);
  o.decay_share = 0.25;  // the last 25 of 100 steps
  for (int64_t step = 9; step < 75; step++) EXPECT_DOUBLE_EQ(learning_rate(o, step, 100), 2) << step;
  for (int64_t step = 75; step < 100; step++)
    EXPECT_NEAR(learning_rate(o, step, 100), 2 - 1.8 * double(step - 74) / 25, 1e-12) << step;
}

TEST(LearningRate, plateau_does_not_depend_on_how_long_the_run_is) {
  // What makes branching from a plateau possible: steps before the decay are the same in a longer run.
  OptimizerSection o = settings(Schedule::wsd);
  o.decay_share = 0.2;
  for (int64_t step = 0; step < 80; step++)
    EXPECT_EQ(learning_rate(o, step, 100), learning_rate(o, step, 100000)) << step;
}

TEST(LearningRate, constant_stays) {
  const OptimizerSection o = settings(Schedule::constant);
  for (int64_t step = 3; step < 200; step++) EXPECT_EQ(learning_rate(o, step, 100), 2);
}

TEST(LearningRate, a_run_of_one_step_has_a_rate_between_the_ends) {
  for (Schedule schedule : kAll)
    for (int64_t warmup : {0, 1}) {
      const double lr = learning_rate(settings(schedule, 2, warmup), 0, 1);
      EXPECT_GE(lr, 0.2 - 1e-12);
      EXPECT_LE(lr, 2.0);
    }
}

TEST(LearningRate, cosine_follows_the_golden_trajectory) {
  const std::string path = test::golden("hybrid_moe/trajectory.json");
  const Json json = parse_json(test::read_bytes(path), path);
  const std::vector<double> want = JsonReader(json, path, Exit::bad_input).numbers("learning_rates");
  ASSERT_EQ(want.size(), 20u);
  const OptimizerSection o = settings(Schedule::cosine, 3e-3, 5, 0.1);
  for (size_t step = 0; step < want.size(); step++)
    EXPECT_NEAR(learning_rate(o, int64_t(step), 20), want[step], 1e-15) << step;
}

TEST(SequenceLength, last_entry_that_has_begun_counts) {
  DataSection d;
  d.sequence_length = 512;
  EXPECT_EQ(sequence_length_at(d, 0), 512);
  EXPECT_EQ(sequence_length_at(d, 1 << 20), 512);
  d.length_schedule = {{10, 128}, {20, 256}, {21, 64}};
  for (auto [step, length] : {std::pair<int64_t, int64_t>{0, 512},
                              {9, 512},
                              {10, 128},
                              {19, 128},
                              {20, 256},
                              {21, 64},
                              {100000, 64}})
    EXPECT_EQ(sequence_length_at(d, step), length) << step;
}

}  // namespace
}  // namespace jambalaya
