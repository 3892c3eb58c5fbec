// A run that was interrupted says and holds, bit for bit, what it would have without; what it starts from and
// what it refuses.
#include <gtest/gtest.h>

#include "tests/support/training_run.h"
#include "train/run/schedule.h"

namespace jambalaya {
namespace {

using test::checkpoint_path;
using test::difference;
using test::losses;
using test::metrics;
using test::tensors_of;
using test::train;

class Run : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<test::TemporaryFolder>();
    data_ = test::make_store(*folder_, "data", test::random_texts(150, 90, 1));
    other_ = test::make_store(*folder_, "other", test::random_texts(60, 50, 2));
  }
  static void TearDownTestSuite() { folder_.reset(); }
  static std::string path(const std::string& name) { return folder_->path(name); }
  /// A run in a folder of this test's own.
  static Config config(const std::string& name = "run") {
    return test::small_run(
        path(std::string(testing::UnitTest::GetInstance()->current_test_info()->name()) + "-" + name), data_);
  }
  /// Every checkpoint of the whole run is continued from in a copy; each must end as the whole run did.
  static void expect_resume_is_exact(Config c) {
    ASSERT_EQ(train(c), Exit::ok);
    const test::Tensors want = tensors_of(c.run.folder, c.train.steps);
    const std::vector<std::string> lines = metrics(c.run.folder);
    ASSERT_EQ(int64_t(lines.size()), c.train.steps);
    for (int64_t step = c.checkpoint.every; step < c.train.steps; step += c.checkpoint.every) {
      Config again = c;
      again.run.folder = cat(c.run.folder, "-from-", step);
      test::copy_run(c.run.folder, again.run.folder, step);
      EXPECT_EQ(train(again), Exit::ok);
      EXPECT_EQ(difference(tensors_of(again.run.folder, c.train.steps), want), "") << "from step " << step;
      EXPECT_EQ(metrics(again.run.folder), lines) << "from step " << step;
    }
  }
  static void expect_refused(const Config& c, Exit exit, const std::string& part,
                             const std::string& resume = "auto") {
    try {
      train(c, resume);
      ADD_FAILURE() << "was not refused";
    } catch (const Error& e) {
      EXPECT_EQ(e.exit(), exit);
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
  }
  static std::unique_ptr<test::TemporaryFolder> folder_;
  static std::string data_, other_;
};
std::unique_ptr<test::TemporaryFolder> Run::folder_;
std::string Run::data_, Run::other_;

TEST_F(Run, resume_is_bit_exact) { expect_resume_is_exact(config()); }

TEST_F(Run, resume_is_bit_exact_with_accumulation_and_bf16) {
  Config c = config();
  c.data.global_batch = 12;
  c.train.precision = Precision::bf16;
  c.train.recompute = Recompute::layer;
  expect_resume_is_exact(c);
}

TEST_F(Run, resume_is_bit_exact_with_lengths_that_change) {
  Config c = config();
  c.data.length_schedule = {{0, 16}, {3, 32}, {6, 128}, {9, 64}};
  c.optimizer.schedule = Schedule::wsd;
  c.optimizer.decay_share = 0.5;
  c.checkpoint.every = 3;  // right at the changes
  expect_resume_is_exact(c);
  for (const std::string& line : metrics(c.run.folder)) {
    const Json json = parse_json(line.substr(0, line.find_last_of(',')) + "}", "line");
    EXPECT_EQ(json.find("tokens")->integer,
              json.find("step")->integer * 4 * 32);  // the tokens of a step stay
    EXPECT_EQ(json.find("lr")->number,
              learning_rate(c.optimizer, json.find("step")->integer - 1, c.train.steps));
  }
}

TEST_F(Run, learns) {
  Config c = config();
  c.train.steps = 100;
  c.checkpoint.every = 100;
  ASSERT_EQ(train(c), Exit::ok);
  const std::vector<double> loss = losses(c.run.folder);
  EXPECT_NEAR(loss.front(), std::log(260.0), 0.5);
  EXPECT_LT(loss.back(), std::log(26.0) + 0.5);  // letters are drawn evenly from 26
}

TEST_F(Run, threads_and_folder_change_no_bit) {
  Config one = config("one"), many = config("many");
  many.run.threads = 3;
  train(one);
  train(many);
  EXPECT_EQ(metrics(one.run.folder), metrics(many.run.folder));
  EXPECT_EQ(difference(tensors_of(one.run.folder, 12), tensors_of(many.run.folder, 12)), "");
}

TEST_F(Run, accumulation_is_the_same_batch) {
  // Without the losses that are means over a micro-batch, two micro-batches are one of twice the rows.
  Config whole = config("whole"), halves = config("halves");
  for (Config* c : {&whole, &halves}) {
    c->model.router_aux_loss_coef = 0;
    c->optimizer.eps = 1e-4;
  }
  whole.data.micro_batch = 8;
  halves.data.global_batch = 8;
  train(whole);
  train(halves);
  const std::vector<double> a = losses(whole.run.folder), b = losses(halves.run.folder);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); i++) EXPECT_NEAR(a[i], b[i], 1e-4) << "step " << i + 1;
}

TEST_F(Run, torn_newest_checkpoint_is_passed_over) {
  Config c = config();
  train(c);
  const test::Tensors want = tensors_of(c.run.folder, 12);
  const std::vector<std::string> lines = metrics(c.run.folder);
  std::filesystem::remove_all(checkpoint_path(c.run.folder, 12));
  const std::string file = checkpoint_path(c.run.folder, 8) + "/rank-00000.h5";
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 100);
  std::filesystem::create_directories(c.run.folder + "/checkpoints/.tmp-step-00000012");
  EXPECT_EQ(train(c), Exit::ok);
  EXPECT_EQ(difference(tensors_of(c.run.folder, 12), want), "");
  EXPECT_EQ(metrics(c.run.folder), lines);
}

TEST_F(Run, finished_run_stays_as_it_is) {
  Config c = config();
  train(c);
  const std::vector<std::string> lines = metrics(c.run.folder);
  const test::Tensors want = tensors_of(c.run.folder, 12);
  EXPECT_EQ(train(c), Exit::ok);
  EXPECT_EQ(metrics(c.run.folder), lines);
  EXPECT_EQ(difference(tensors_of(c.run.folder, 12), want), "");
}

TEST_F(Run, folder_has_one_writer) {
  Config c = config();
  Runtime runtime(c.parallel, c.model, c.run);
  const Trainer first(runtime, c, "auto");
  expect_refused(c, Exit::usage, "another job is writing");
}

TEST_F(Run, earlier_run_is_not_overwritten) {
  Config c = config();
  c.train.steps = 4;
  train(c);
  expect_refused(c, Exit::usage, "earlier run", "none");
}

TEST_F(Run, data_with_more_ids_than_the_model_is_refused) {
  Config c = config();
  c.model.vocab_size = 259;
  expect_refused(c, Exit::usage, "model.vocab_size");
}

TEST_F(Run, other_data_or_another_model_is_refused_on_resume) {
  Config c = config();
  c.train.steps = 4;
  train(c);
  c.train.steps = 8;
  Config other = c;
  other.data.folder = other_;
  expect_refused(other, Exit::usage, "other data");
  other = c;
  other.model.hidden_size = 32;
  expect_refused(other, Exit::usage, "hidden_size");
}

TEST_F(Run, global_batch_that_the_ranks_cannot_fill_is_refused) {
  Config c = config();
  c.data.global_batch = 6;  // of 4 rows
  expect_refused(c, Exit::usage, "data.global_batch");
}

TEST_F(Run, branch_goes_on_from_weights_moments_and_cursor) {
  Config c = config();
  train(c);
  Config branch = config("branch");
  branch.train.branch_from = checkpoint_path(c.run.folder, 4);
  train(branch);
  EXPECT_EQ(difference(tensors_of(branch.run.folder, 12), tensors_of(c.run.folder, 12)), "");
  const std::vector<std::string> all = metrics(c.run.folder);
  EXPECT_EQ(metrics(branch.run.folder), std::vector<std::string>(all.begin() + 4, all.end()));
  // A branch that was interrupted goes on from its own checkpoint.
  std::filesystem::remove_all(checkpoint_path(branch.run.folder, 12));
  train(branch);
  EXPECT_EQ(difference(tensors_of(branch.run.folder, 12), tensors_of(c.run.folder, 12)), "");
}

TEST_F(Run, branch_may_train_towards_other_losses) {
  Config c = config();
  c.train.steps = 4;
  train(c);
  Config branch = config("branch");
  branch.train.branch_from = checkpoint_path(c.run.folder, 4);
  branch.model.act_loss_alpha = 1e-3;  // Jamba-1.5 adds it near the end
  branch.model.router_aux_loss_coef = 0.02;
  EXPECT_EQ(train(branch), Exit::ok);
}

TEST_F(Run, init_takes_the_weights_alone) {
  Config c = config();
  train(c);
  Config fresh = config("fresh");
  fresh.train.init_from = checkpoint_path(c.run.folder, 12);
  fresh.data.folder = other_;
  fresh.optimizer.lr = 1e-12;
  fresh.optimizer.weight_decay = 0;
  fresh.train.steps = 3;
  train(fresh);
  const CheckpointInfo info = open_checkpoint(checkpoint_path(fresh.run.folder, 3));
  EXPECT_EQ(info.state.optimizer_steps, 3);
  EXPECT_EQ(metrics(fresh.run.folder).size(), 3u);
  const test::Tensors before = tensors_of(c.run.folder, 12), after = tensors_of(info);
  for (const auto& [name, values] : before) {
    if (!name.starts_with("param/")) continue;
    for (size_t i = 0; i < values.size(); i++) ASSERT_NEAR(after.at(name)[i], values[i], 1e-9) << name;
  }
  EXPECT_NE(difference(before, after), "");  // the moments are new
}

TEST(Schedule, learning_rate_has_its_ends_and_peak) {
  OptimizerSection o;
  o.lr = 2;
  o.warmup_steps = 4;
  o.final_lr = 0.1;
  for (Schedule schedule : {Schedule::cosine, Schedule::wsd, Schedule::constant}) {
    o.schedule = schedule;
    EXPECT_EQ(learning_rate(o, 0, 20), 0.5);
    EXPECT_EQ(learning_rate(o, 3, 20), 2);
    EXPECT_NEAR(learning_rate(o, 19, 20), schedule == Schedule::constant ? 2 : 0.2, 1e-12);
    for (int64_t step = 4; step < 20; step++)
      EXPECT_LE(learning_rate(o, step, 20), learning_rate(o, step - 1, 20));
  }
  o.schedule = Schedule::wsd;  // the last fifth decays: 4 of 20 steps, evenly
  EXPECT_EQ(learning_rate(o, 15, 20), 2);
  EXPECT_NEAR(learning_rate(o, 16, 20), 2 - 1.8 / 4, 1e-12);
  EXPECT_NEAR(learning_rate(o, 17, 20), 2 - 1.8 / 2, 1e-12);
}

TEST_F(Run, evaluates_at_intervals_and_at_the_end_or_never) {
  for (const int64_t every : {5, 0}) {
    Config c = config(cat(every));
    c.log.evaluate_every = every;
    ASSERT_EQ(train(c), Exit::ok);
    std::string evaluated;
    const std::vector<std::string> lines = metrics(c.run.folder);
    for (size_t i = 0; i < lines.size(); i++)
      if (lines[i].find("held_out") != std::string::npos) evaluated += cat(" ", i + 1);
    EXPECT_EQ(evaluated, every ? " 5 10 12" : "");
  }
}

}  // namespace
}  // namespace jambalaya
