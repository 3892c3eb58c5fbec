// A cuDNN that is there and then refuses: kernels/cuda/attention_cudnn.cpp over refusing_cudnn.cpp, as the
// attention library of the emulated device.
#include <gtest/gtest.h>

#include "tests/kernels/attention_call.h"

namespace jambalaya::test {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(AttentionRefusal, is_told_once_and_in_the_name_of_the_ops_and_our_own_kernels_take_over) {
  const auto ctx = make_context();
  const char* const before = (*ctx)->name();
  const std::string before_text = before;
  EXPECT_TRUE(contains(before_text, "attention: cuDNN 9.19.0)")) << before;

  const AttentionCase sizes{4, 2, 16, {5, 9}};
  AttentionCall call(sizes, DType::bf16);
  testing::internal::CaptureStderr();
  call.forward(*ctx);
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(
      contains(told, "cuDNN 9.19.0 refuses an attention call, which our own kernels take: cudnnCreate"))
      << told;
  reference::Values o, lse;
  sizes.reference().forward(values(call.q()), values(call.k()), values(call.v()), o, lse);
  EXPECT_LE(relative_l2(call.o, o), 6e-3);

  AttentionCall another({4, 2, 32, {30}}, DType::bf16);
  testing::internal::CaptureStderr();
  another.forward(*ctx);
  EXPECT_FALSE(contains(testing::internal::GetCapturedStderr(), "refuses"));
  const std::string after = (*ctx)->name();
  EXPECT_TRUE(contains(after, "attention: cuDNN 9.19.0; own kernels where it refuses (cudnnCreate fails)"))
      << after;
  EXPECT_EQ(before, before_text) << "what was told before stays valid";
}

}  // namespace
}  // namespace jambalaya::test
