// The nine recorded models: logits, loss, balance loss, every gradient, and the course of a training.
#include "train/interop/golden.h"

#include <gtest/gtest.h>

#include "tests/support/device.h"
#include "train/files.h"
#include "train/interop/huggingface.h"

namespace jambalaya {
namespace {

class Golden : public testing::TestWithParam<const char*> {
 protected:
  GoldenResult compare(Precision precision, Recompute recompute, int threads) const {
    const std::string folder = std::string(JAMBALAYA_SOURCE_DIR "/tests/goldens/") + GetParam();
    ModelConfig model = model_config_from_hf(read_small_file(folder + "/config.json", 1 << 20), folder);
    std::unique_ptr<Runtime> runtime = Runtime::single(threads, test::device_name());
    return compare_golden(*runtime, folder, model, precision, recompute, GoldenTolerances::of(precision));
  }
  static void expect_passed(const GoldenResult& result) {
    // All of the model's gradients, or the folder is not what it was.
    EXPECT_GT(std::count_if(result.measured.begin(), result.measured.end(),
                            [](const Measured& m) { return m.what.starts_with("gradient "); }),
              10);
    for (const Measured& m : result.measured)
      EXPECT_TRUE(m.passed()) << m.what << ": " << m.measure << " " << m.error << " > " << m.tolerance;
  }
};

TEST_P(Golden, fp32_matches_float64) { expect_passed(compare(Precision::f32, Recompute::off, 1)); }
TEST_P(Golden, bf16_stays_near) { expect_passed(compare(Precision::bf16, Recompute::off, 2)); }

TEST_P(Golden, recompute_and_threads_change_no_bit) {
  GoldenResult plain = compare(Precision::f32, Recompute::off, 1);
  for (Recompute recompute : {Recompute::off, Recompute::mamba, Recompute::layer}) {
    GoldenResult other = compare(Precision::f32, recompute, 2);
    ASSERT_EQ(plain.measured.size(), other.measured.size());
    for (size_t i = 0; i < plain.measured.size(); i++)
      EXPECT_EQ(plain.measured[i].error, other.measured[i].error) << plain.measured[i].what;
  }
}

INSTANTIATE_TEST_SUITE_P(models, Golden,
                         testing::Values("dense", "hybrid_moe", "idle_experts", "no_conv_bias", "odd_sizes",
                                         "one_token", "pure_attention", "pure_mamba", "tied_biased"));

}  // namespace
}  // namespace jambalaya
