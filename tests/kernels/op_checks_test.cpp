// What the menu demands of tensors is said once (kernels/op_checks.h): every backend refuses a wrong call
// with the same words, file and line included.
#include <gtest/gtest.h>

#include "kernels/attention_segments.h"
#include "kernels/op_checks.h"
#include "tests/support/cpu_fixture.h"

namespace jambalaya::test {
namespace {

template <class Call>
std::string complaint(Call&& call) {
  try {
    call();
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "";
}

/// Without tensors no op can do anything.
template <class Op>
Op wrong() {
  return {};
}
template <>
ScaleCopy wrong() {  // one number to one number, but no memory
  ScaleCopy op;
  op.y.rank = 1;
  return op;
}
template <>
MultiplyAdd wrong() {
  MultiplyAdd op;
  op.a.dtype = DType::bf16;
  return op;
}

template <class... Op>
void expect_same_words(Backend& on, void (Ops::*... run)(Context&, const Op&)) {
  auto expect = [&]<class One>(void (Ops::*one)(Context&, const One&)) {
    const One op = wrong<One>();
    const std::string want = complaint([&] { check_op(op); });
    EXPECT_NE(want, "");
    EXPECT_EQ(complaint([&] { (on.operator->()->*one)(on, op); }), want);
  };
  (expect(run), ...);
}

TEST(op_checks, speak_for_every_op_of_every_backend) {
  Backend on("", 1);
  expect_same_words(on, &Ops::gemm, &Ops::grouped_gemm, &Ops::embedding_forward, &Ops::embedding_backward,
                    &Ops::head_loss, &Ops::rms_norm_forward, &Ops::rms_norm_backward, &Ops::ssm_norms_forward,
                    &Ops::ssm_norms_backward, &Ops::conv_forward, &Ops::conv_backward, &Ops::scan_forward,
                    &Ops::scan_backward, &Ops::scan_carry_forward, &Ops::scan_carry_backward, &Ops::rope,
                    &Ops::attention_forward, &Ops::attention_merge, &Ops::attention_delta,
                    &Ops::attention_backward, &Ops::cache_append, &Ops::swiglu_forward, &Ops::swiglu_backward,
                    &Ops::router_forward, &Ops::router_backward, &Ops::balance_loss, &Ops::sort_by_expert,
                    &Ops::gather_rows, &Ops::gather_rows_backward, &Ops::combine_forward,
                    &Ops::combine_backward, &Ops::scale_copy, &Ops::multiply_add, &Ops::add_bias,
                    &Ops::bias_backward, &Ops::sum_squares, &Ops::adamw);
}

TEST(op_checks, name_the_tensor_and_what_it_is) {
  Backend on("", 1);
  Owned h(DType::f32, {2, 4}), gate_up(DType::bf16, {2, 8}), narrow(DType::f32, {2, 7});
  EXPECT_NE(complaint([&] {
              on->swiglu_forward(on, {gate_up, h});
            }).find("gate_up is bf16[2, 8]"),
            std::string::npos);
  EXPECT_NE(complaint([&] {
              on->swiglu_forward(on, {narrow, h});
            }).find("gate_up has the wrong shape: f32[2, 7]"),
            std::string::npos);
}

}  // namespace
}  // namespace jambalaya::test
