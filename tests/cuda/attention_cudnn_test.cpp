// The plans of attention by cuDNN, asked for by the function that builds them for execution: has cuDNN a
// kernel for each on an sm_90 GPU? Needs cuDNN and a libcuda (the toolkit's stub will do), but no GPU.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>

#include "kernels/cuda/attention_library.h"

namespace jambalaya::cuda {
namespace {

std::string h200() {
  std::ifstream file(std::string(JAMBALAYA_SOURCE_DIR) + "/tests/cuda/h200.json");
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Query, key and value side by side in one matrix, as a fused projection leaves them, or each by itself.
AttentionPlanKey plan(int64_t documents, int64_t longest, int64_t heads, int64_t key_heads, int64_t size,
                      bool fused = false, bool statistics = true) {
  const int64_t q = heads * size, k = key_heads * size, row = q + 2 * k;
  return {documents,
          longest,
          heads,
          key_heads,
          size,
          fused ? row : q,
          fused ? row : k,
          fused ? row : k,
          q,
          statistics,
          1 / std::sqrt(float(size))};
}

class CudnnPlans : public testing::Test {
 protected:
  void SetUp() override {
    // The one reason to skip: headers without the library. A plan that cannot be described is a failure.
    if (!dlopen("libcudnn.so.9", RTLD_NOW)) GTEST_SKIP() << dlerror();
  }
  static std::string refusal(const AttentionPlanKey& key) { return why_unsupported(key, h200(), 90); }
};

TEST_F(CudnnPlans, usual_heads_have_a_kernel) {
  EXPECT_EQ(refusal(plan(8, 4096, 32, 8, 128)), "");
  EXPECT_EQ(refusal(plan(8, 4096, 16, 16, 64)), "");
  EXPECT_EQ(refusal(plan(4, 2048, 8, 2, 96)), "");
  EXPECT_EQ(refusal(plan(4, 2048, 8, 2, 8)), "");
  EXPECT_EQ(refusal(plan(4, 2048, 8, 2, 256)), "");
}

TEST_F(CudnnPlans, any_number_of_documents_has_a_kernel) {
  EXPECT_EQ(refusal(plan(1, 64, 4, 1, 64)), "");
  EXPECT_EQ(refusal(plan(512, 512, 32, 8, 128)), "");
  EXPECT_EQ(refusal(plan(1, 262144, 32, 8, 128)), "");
}

TEST_F(CudnnPlans, operands_of_one_fused_matrix_have_a_kernel) {
  EXPECT_EQ(refusal(plan(8, 4096, 32, 8, 128, true)), "");
  EXPECT_EQ(refusal(plan(8, 4096, 32, 8, 128, true, false)), "");
}

TEST_F(CudnnPlans, a_head_size_that_is_no_multiple_of_8_is_refused) {
  EXPECT_NE(refusal(plan(8, 4096, 32, 8, 12)), "");
  EXPECT_NE(refusal(plan(8, 4096, 32, 8, 7)), "");
}

TEST_F(CudnnPlans, query_heads_that_no_key_head_divides_are_refused) {
  EXPECT_NE(refusal(plan(8, 4096, 6, 4, 64)), "");
}

}  // namespace
}  // namespace jambalaya::cuda
