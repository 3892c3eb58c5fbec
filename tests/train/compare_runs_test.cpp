#include "train/run/compare_runs.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/training_run.h"
#include "train/checkpoint/whole.h"
#include "train/commands/commands.h"

namespace jambalaya {
namespace {

namespace fs = std::filesystem;
using test::checkpoint_path;
using test::edit_checkpoint;
using test::Tensors;

std::string message_of(Exit exit, const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), exit) << e.what();
    return e.what();
  }
  return "nothing was thrown";
}

/// One short run, made once, of which every test changes a copy.
class CompareRuns : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder = new test::TemporaryFolder;
    data = test::make_store(*folder, "data", test::random_texts(60, 90, 1));
    config = test::small_run(folder->path("a"), data);
    config.train.steps = 8;
    test::train(config);
  }
  static void TearDownTestSuite() {
    delete folder;
    folder = nullptr;
  }
  void SetUp() override {
    a = folder->path("a");
    b = folder->path(testing::UnitTest::GetInstance()->current_test_info()->name());
  }
  void copy() const { fs::copy(a, b, fs::copy_options::recursive); }
  /// Replaces the first occurrence in a line of B's metrics.
  void edit_metrics(int64_t step, const std::function<std::string(const std::string&)>& edit) const {
    std::istringstream in(test::read_file(b + "/metrics.jsonl"));
    std::ofstream out(b + "/metrics.jsonl");
    int64_t number = 0;
    for (std::string line; std::getline(in, line);) out << (++number == step ? edit(line) : line) << "\n";
  }
  int code(double tolerance = 0) const { return run_compare_runs({a, b, tolerance, true}); }

  static test::TemporaryFolder* folder;
  static std::string data;
  static Config config;
  std::string a, b;
};
test::TemporaryFolder* CompareRuns::folder = nullptr;
std::string CompareRuns::data;
Config CompareRuns::config;

std::function<std::string(const std::string&)> with_number(const std::string& key, const std::string& value) {
  return [=](std::string line) {
    const size_t at = line.find("\"" + key + "\":"),
                 from = line.find_first_of("-0123456789", at + key.size() + 2);
    return line.replace(from, line.find_first_of(",}", from) - from, value);
  };
}

TEST_F(CompareRuns, a_repetition_is_equal_to_the_bit) {
  Config again = config;
  again.run.folder = b;
  test::train(again);
  const RunComparison result = compare_runs(a, b, 0);
  EXPECT_TRUE(result.equal());
  EXPECT_TRUE(result.settings.empty()) << result.settings[0].key;
  ASSERT_TRUE(result.metrics);
  EXPECT_EQ(result.metrics->steps, 8);
  EXPECT_FALSE(result.metrics->largest);
  ASSERT_EQ(result.checkpoints.size(), 2u);
  EXPECT_GT(result.checkpoints[0].tensors, 60);
  EXPECT_EQ(code(), 0);
}

TEST_F(CompareRuns, the_first_step_and_field_are_named) {
  copy();
  edit_metrics(7, with_number("loss", "1"));
  edit_metrics(5, with_number("grad_norm", "2.5"));
  edit_metrics(3, with_number("seconds", "99"));  // of the moment: not compared
  const RunComparison result = compare_runs(a, b, 0);
  ASSERT_TRUE(result.metrics->first);
  EXPECT_EQ(result.metrics->first->step, 5);
  EXPECT_EQ(result.metrics->first->field, "grad_norm");
  EXPECT_EQ(result.metrics->first->b, "2.5");
  EXPECT_EQ(result.metrics->differing, 2);
  EXPECT_EQ(code(), 17);
}

TEST_F(CompareRuns, the_first_tensor_is_that_of_the_parameter_table) {
  copy();
  // By name adam_m would come first, and both before the layers.
  edit_checkpoint(b, 8, [](Tensors& all) {
    all.at("adam_m/lm_head.weight")[3] += 1;
    std::vector<float>& w = all.at("param/layers.1.self_attn.o_proj.weight");
    w[2 * 16 + 5] = 7;
    w[3 * 16] = -7;
  });
  const std::vector<float> before = test::tensors_of(a, 8).at("param/layers.1.self_attn.o_proj.weight");
  const RunComparison result = compare_runs(a, b, 0);
  ASSERT_EQ(result.checkpoints.size(), 2u);
  EXPECT_TRUE(result.checkpoints[0].equal());
  const CheckpointComparison& c = result.checkpoints[1];
  EXPECT_EQ(c.step, 8);
  EXPECT_EQ(c.differing, 2);
  ASSERT_TRUE(c.first);
  EXPECT_EQ(c.first->name, "param/layers.1.self_attn.o_proj.weight");
  EXPECT_EQ(c.first->index, (std::vector<int64_t>{2, 5}));
  EXPECT_EQ(c.first->a, before[2 * 16 + 5]);
  EXPECT_EQ(c.first->b, 7);
  EXPECT_EQ(c.first->differing, 2);
  double norm2 = 0;
  for (float v : before) norm2 += double(v) * double(v);
  const double d1 = std::abs(double(before[37]) - 7), d2 = std::abs(double(before[48]) + 7);
  EXPECT_DOUBLE_EQ(c.first->max_abs, std::max(d1, d2));
  EXPECT_NEAR(c.first->relative_l2, std::sqrt((d1 * d1 + d2 * d2) / norm2), 1e-12);
  EXPECT_EQ(code(), 17);
}

TEST_F(CompareRuns, nothing_is_read_behind_the_first_checkpoint_that_differs) {
  copy();
  edit_checkpoint(b, 4, [](Tensors& all) { all.at("adam_v/final_layernorm.weight")[0] = 1; });
  const RunComparison result = compare_runs(a, b, 0);
  ASSERT_EQ(result.checkpoints.size(), 1u);
  EXPECT_EQ(result.checkpoints[0].first->name, "adam_v/final_layernorm.weight");
}

TEST_F(CompareRuns, a_tolerance_covers_what_is_below_it_and_no_more) {
  copy();
  edit_checkpoint(b, 8, [](Tensors& all) {
    for (float& v : all.at("param/lm_head.weight")) v *= 1.0f + 1e-5f;
  });
  edit_metrics(8, [this](const std::string& line) {
    return with_number("loss", cat(test::losses(a)[7] * (1 + 1e-5)))(line);
  });
  EXPECT_EQ(code(0), 17);
  EXPECT_EQ(code(0.9e-5), 17);
  EXPECT_EQ(code(1.1e-5), 0);
  const RunComparison result = compare_runs(a, b, 1.1e-5);
  EXPECT_EQ(result.metrics->largest->field, "loss");
  EXPECT_NEAR(result.metrics->largest->relative, 1e-5, 1e-9);
  EXPECT_EQ(result.checkpoints[1].largest->name, "param/lm_head.weight");
  // Whole numbers have no tolerance.
  edit_metrics(2, with_number("tokens", "257"));
  EXPECT_EQ(code(1), 17);
}

TEST_F(CompareRuns, cuts_do_not_matter) {
  copy();
  const CheckpointInfo info = open_checkpoint(checkpoint_path(b, 8));
  Tensors all = test::tensors_of(info);
  std::vector<Box> boxes;
  for (const CheckpointInfo::Stored& stored : info.tensors) {
    const int64_t rows = stored.global_shape[0], half = rows / 2;
    const auto columns = int64_t(all.at(stored.name).size()) / rows;
    for (auto [begin, end] : {std::pair{int64_t(0), half}, std::pair{half, rows}}) {
      std::vector<int64_t> offset(stored.global_shape.size(), 0), shape = stored.global_shape;
      offset[0] = begin;
      shape[0] = end - begin;
      boxes.push_back(box_at(stored.name, stored.global_shape, offset, shape,
                             all.at(stored.name).data() + begin * columns));
    }
  }
  save_checkpoint(*make_single_communicator(), b + "/checkpoints", boxes, info.state, info.model, false);
  EXPECT_TRUE(compare_runs(a, b, 0).equal());
  EXPECT_TRUE(compare_runs(checkpoint_path(a, 8), checkpoint_path(b, 8), 0).equal());
}

TEST_F(CompareRuns, reasons_to_differ_are_told_apart_from_rounding) {
  Config other = test::small_run(b, test::make_store(*folder, "other-data", test::random_texts(60, 90, 2)));
  other.train.steps = 4;
  other.run.seed = 7;
  other.model.router_z_loss_coef = 0.001;
  other.train.recompute = Recompute::layer;
  test::train(other);
  const RunComparison result = compare_runs(a, b, 0);
  std::map<std::string, bool> expected;
  for (const SettingDifference& d : result.settings) expected[d.key] = d.expected;
  EXPECT_EQ(expected, (std::map<std::string, bool>{{"run.seed", true},
                                                   {"model.router_z_loss_coef", true},
                                                   {"train.steps", true},
                                                   {"train.recompute", false},
                                                   {"data (fingerprint)", true},
                                                   {"data (seed of its order)", true}}));
  EXPECT_EQ(result.metrics->first->step, 1);
  EXPECT_EQ(result.metrics->first->field, "rows_crc32c");  // other text was read
}

TEST_F(CompareRuns, other_shapes_and_missing_tensors_are_named) {
  Config other = test::small_run(b, data);
  other.model.intermediate_size = 32;
  other.train.steps = 4;
  test::train(other);
  const TensorDifference largest = *compare_runs(a, b, 0).checkpoints[0].largest;
  EXPECT_EQ(largest.name, "param/layers.0.feed_forward.experts.gate_up_proj");
  EXPECT_EQ(largest.why, "shape [4, 48, 16] in A, [4, 64, 16] in B");
  // Without moments: as an import has it.
  fs::copy(a, folder->path("weights"), fs::copy_options::recursive);
  CheckpointInfo info = open_checkpoint(checkpoint_path(a, 4));
  Tensors all = test::tensors_of(info);
  std::vector<Box> boxes;
  for (const CheckpointInfo::Stored& stored : info.tensors)
    if (stored.name.starts_with("param/"))
      boxes.push_back(whole_box(stored.name, stored.global_shape, all.at(stored.name).data()));
  save_checkpoint(*make_single_communicator(), folder->path("weights") + "/checkpoints", boxes, info.state,
                  info.model, true);
  const RunComparison weights = compare_runs(a, folder->path("weights"), 0);
  ASSERT_EQ(weights.checkpoints.size(), 1u);
  EXPECT_EQ(weights.checkpoints[0].first->name, "adam_m/embed_tokens.weight");
  EXPECT_EQ(weights.checkpoints[0].first->why, "only in A");
}

TEST_F(CompareRuns, a_line_that_a_killed_run_left_unfinished_is_passed_over) {
  copy();
  fs::remove_all(b + "/checkpoints");
  std::string text = test::read_file(b + "/metrics.jsonl");
  text.resize(text.size() - 40);
  std::ofstream(b + "/metrics.jsonl") << text;
  const RunComparison result = compare_runs(a, b, 0);
  EXPECT_TRUE(result.equal());
  EXPECT_EQ(result.metrics->steps, 7);
}

TEST_F(CompareRuns, what_cannot_be_compared_is_refused) {
  copy();
  EXPECT_NE(message_of(Exit::bad_input, [&] { compare_runs(a, b + "/none", 0); }).find("no such folder"),
            std::string::npos);
  EXPECT_NE(
      message_of(Exit::bad_input, [&] { compare_runs(a, folder->path(""), 0); }).find("neither metrics"),
      std::string::npos);
  fs::remove(b + "/metrics.jsonl");
  fs::remove_all(checkpoint_path(b, 4));
  fs::rename(checkpoint_path(b, 8), checkpoint_path(b, 9));
  EXPECT_NE(message_of(Exit::bad_input, [&] { compare_runs(a, b, 0); }).find("no step in common"),
            std::string::npos);
  fs::rename(checkpoint_path(b, 9), checkpoint_path(b, 8));
  std::ofstream(checkpoint_path(b, 8) + "/rank-00000.h5", std::ios::app) << "x";
  EXPECT_NE(message_of(Exit::checkpoint, [&] { compare_runs(a, b, 0); }).find("rank-00000.h5"),
            std::string::npos);
}

TEST(CompareValues, every_bit_counts_and_not_a_number_is_infinitely_far) {
  const std::vector<float> x{0.0f, 1.0f, NAN, INFINITY}, zero{-0.0f, 1.0f, NAN, INFINITY},
      broken{0.0f, 1.0f, 2.0f, INFINITY};
  EXPECT_FALSE(compare_values(x.data(), x.data(), 4));
  const auto sign = compare_values(x.data(), zero.data(), 4);
  ASSERT_TRUE(sign);
  EXPECT_EQ(sign->relative_l2, 0);
  EXPECT_EQ(sign->index, std::vector<int64_t>{0});
  const auto bad = compare_values(x.data(), broken.data(), 4);
  ASSERT_TRUE(bad);
  EXPECT_EQ(bad->relative_l2, INFINITY);
  EXPECT_EQ(bad->index, std::vector<int64_t>{2});
}

}  // namespace
}  // namespace jambalaya
