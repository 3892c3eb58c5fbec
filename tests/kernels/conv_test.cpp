// The causal convolution against float64, and what must hold bit by bit: documents, splits, threads.
#include <numeric>

#include "tests/kernels/conv_call.h"

namespace jambalaya::test {
namespace {

using Options = ConvOptions;
using Outputs = ConvOutputs;
using Call = ConvCall;

Outputs run(Backend& cpu, const Conv& in, DType act, const Values& du = {}, const Values& dtail = {}) {
  Outputs out;
  Call call(in, act);
  call.forward(cpu, out);
  if (!du.empty()) call.backward(cpu, du, act, dtail, out);
  return out;
}

void expect_reference(Backend& cpu, const Conv& in, bool with_dtail, int64_t gap = 3) {
  const Values dtail =
      with_dtail
          ? Owned(DType::f32, {in.S(), in.W - 1, in.E}, normal(in.S() * (in.W - 1) * in.E, 21)).values()
          : Values{};
  for (auto [act, du_type] :
       {std::pair{DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}}) {
    SCOPED_TRACE(cat(cpu->name(), " ", name_of(act), " du ", name_of(du_type), " T ", in.T(), " E ", in.E,
                     " W ", in.W));
    Call call(in, act, false, gap);
    const Values du = Owned(du_type, {in.T(), in.E}, normal(in.T() * in.E, 20)).values();
    Outputs got;
    call.forward(cpu, got);
    call.backward(cpu, du, du_type, dtail, got);
    Conv rounded = in;
    rounded.x = call.x.values();
    const auto want = reference::conv_forward(rounded);
    auto grad = reference::conv_backward(rounded, du, dtail);
    const double sums = 2e-6 * std::sqrt(double(in.W)), tokens = 2e-6 * std::sqrt(double(in.T() + 1));
    EXPECT_LT(relative_l2(got.u, want.u), act == DType::f32 ? sums : 4e-3);
    EXPECT_LT(relative_l2(got.tail, want.tail), 1e-7);
    EXPECT_LT(relative_l2(got.dx, grad.dx), act == DType::f32 ? sums : 8e-3);
    EXPECT_LT(relative_l2(got.dleft, grad.dleft), sums);
    for (double& g : grad.dw) g += 1;
    for (double& g : grad.dbias) g += in.bias.empty() ? 1 - g : 1;
    EXPECT_LT(relative_l2(got.dw, grad.dw), tokens);
    EXPECT_LT(relative_l2(got.dbias, grad.dbias), tokens);
  }
}

TEST(conv, reference_backward_is_the_derivative) {
  const Conv in = make_conv(2, 3, {4, 0, 1, 5});
  const Values du = normal(in.T() * 2, 20), dtail = normal(in.S() * 2 * 2, 21);
  const auto g = reference::conv_backward(in, du, dtail);
  auto check = [&](Values Conv::*field, const Values& gradient, const char* name) {
    auto loss = [&](const Values& v) {
      Conv x = in;
      x.*field = v;
      const auto out = reference::conv_forward(x);
      return std::inner_product(out.u.begin(), out.u.end(), du.begin(), 0.0) +
             std::inner_product(out.tail.begin(), out.tail.end(), dtail.begin(), 0.0);
    };
    expect_central_differences(loss, in.*field, gradient, name);
  };
  check(&Conv::x, g.dx, "x");
  check(&Conv::w, g.dw, "w");
  check(&Conv::bias, g.dbias, "bias");
  check(&Conv::left, g.dleft, "left");
}

TEST(conv, matches_float64_at_any_size) {
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    expect_reference(cpu, make_conv(48, 4, {70, 1, 0, 2, 129, 3, 300}), true);
    expect_reference(cpu, make_conv(37, 4, {257}, {false, false}), false);
    expect_reference(cpu, make_conv(5, 2, {64, 65}), true);
    expect_reference(cpu, make_conv(33, 7, {1, 2, 3, 100, 0, 300}), true);
    expect_reference(cpu, make_conv(16, 1, {20}), false);
    expect_reference(cpu, make_conv(70, 4, {1}, {true, false}), true);
    expect_reference(cpu, make_conv(3, 90, {10, 200, 89}), true);  // wider than a tile
  }
}

/// Rows that several channels at a time can be read from.
TEST(conv, matches_float64_where_rows_are_aligned) {
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    for (int64_t gap : {0, 8}) {
      expect_reference(cpu, make_conv(64, 4, {70, 1, 0, 2, 129, 3, 130}), true, gap);
      expect_reference(cpu, make_conv(24, 4, {66, 1, 1}, {false, false}), false, gap);
      expect_reference(cpu, make_conv(6, 4, {1, 65}), true, gap);
    }
  }
}

TEST(conv, documents_of_one_token_and_empty_ones) {
  std::vector<int64_t> lengths;
  for (int i = 0; i < 400; i++) lengths.push_back(i % 3 != 1);
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    expect_reference(cpu, make_conv(20, 4, lengths), true);
    expect_reference(cpu, make_conv(20, 4, lengths, {true, false}), false);
  }
}

TEST(conv, extreme_inputs_stay_exact) {
  Conv in = make_conv(24, 4, {90, 40});
  for (size_t i = 0; i < in.x.size(); i += 3) in.x[i] *= i % 2 ? 100 : -100;
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    expect_reference(cpu, in, false);
  }
}

TEST(conv, no_tokens) {
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    const Conv in = make_conv(20, 4, {0, 0});
    const Values dtail = Owned(DType::f32, {2, 3, 20}, normal(2 * 3 * 20, 21)).values();
    Call call(in, DType::f32);
    Outputs out;
    call.forward(cpu, out);
    call.backward(cpu, {}, DType::f32, dtail, out);
    EXPECT_EQ(out.tail, call.left.values());
    EXPECT_EQ(out.dleft, dtail);
    EXPECT_EQ(out.dw, Values(80, 1));
  }
}

TEST(conv, no_leak_across_documents) {
  const Conv in = make_conv(40, 4, {50, 77, 40}, {true, false});
  Conv changed = in;
  for (int64_t i = 50 * 40; i < 127 * 40; i++) changed.x[size_t(i)] += 1;
  const Values du = normal(in.T() * 40, 20);
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    const Outputs a = run(cpu, in, DType::f32, du), b = run(cpu, changed, DType::f32, du);
    for (auto field : {&Outputs::u, &Outputs::dx}) {
      EXPECT_EQ(part(a.*field, 0, 50 * 40), part(b.*field, 0, 50 * 40));
      EXPECT_EQ(part(a.*field, 127 * 40, 40 * 40), part(b.*field, 127 * 40, 40 * 40));
      EXPECT_NE(part(a.*field, 50 * 40, 77 * 40), part(b.*field, 50 * 40, 77 * 40));
    }
  }
}

TEST(conv, packed_documents_equal_separate_calls) {
  const Conv in = make_conv(40, 4, {64, 2, 300, 1});
  const Values du = normal(in.T() * 40, 20), dtail = normal(in.S() * 3 * 40, 21);
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    const Outputs all = run(cpu, in, DType::bf16, du, dtail);
    Outputs each;
    for (int64_t s = 0, t = 0; s < in.S(); t += in.lengths[size_t(s++)]) {
      const int64_t n = in.lengths[size_t(s)];
      Conv doc = in;
      doc.lengths = {n};
      doc.x = part(in.x, t * 40, n * 40);
      doc.left = part(in.left, s * 120, 120);
      const Outputs one = run(cpu, doc, DType::bf16, part(du, t * 40, n * 40), part(dtail, s * 120, 120));
      for (auto field : {&Outputs::u, &Outputs::tail, &Outputs::dx, &Outputs::dleft})
        each.*field = joined(each.*field, one.*field);
    }
    for (auto field : {&Outputs::u, &Outputs::tail, &Outputs::dx, &Outputs::dleft})
      EXPECT_EQ(each.*field, all.*field);
  }
}

TEST(conv, two_calls_equal_one) {
  const Conv whole = make_conv(40, 4, {150});
  const Values du = normal(150 * 40, 20), dtail = normal(120, 21);
  for (int64_t cut : {1, 2, 83, 149}) {
    for (const auto& isa : isas_of_this_machine()) {
      Backend cpu(isa);
      const Outputs all = run(cpu, whole, DType::f32, du, dtail);
      Conv first = whole, second = whole;
      first.lengths = {cut};
      second.lengths = {150 - cut};
      first.x = part(whole.x, 0, cut * 40);
      second.x = part(whole.x, cut * 40, (150 - cut) * 40);
      second.left = run(cpu, first, DType::f32).tail;
      const Outputs b = run(cpu, second, DType::f32, part(du, cut * 40, (150 - cut) * 40), dtail);
      const Outputs a = run(cpu, first, DType::f32, part(du, 0, cut * 40), b.dleft);
      EXPECT_EQ(joined(a.u, b.u), all.u);
      EXPECT_EQ(b.tail, all.tail);
      // a sum of the same products in another order
      EXPECT_LT(relative_l2(joined(a.dx, b.dx), all.dx), 1e-6);
      EXPECT_LT(relative_l2(a.dleft, all.dleft), 1e-6);
    }
  }
}

TEST(conv, tail_may_replace_left) {
  const Conv in = make_conv(40, 5, {30, 0, 2, 70, 3});
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    const Outputs apart = run(cpu, in, DType::f32);
    Call call(in, DType::f32);
    Owned u(DType::f32, {in.T(), 40});
    ConvForward op;
    call.describe(op);
    op.u = u;
    op.tail = op.left;
    cpu->conv_forward(cpu, op);
    EXPECT_EQ(u.values(), apart.u);
    EXPECT_EQ(call.left.values(), apart.tail);
  }
}

TEST(conv, same_bits_for_any_number_of_threads) {
  const Conv in = make_conv(100, 4, {400, 100, 1, 2000});
  const Values du = normal(in.T() * in.E, 20);
  for (const auto& isa : isas_of_this_machine()) {
    Backend one(isa, 1);
    const Outputs want = run(one, in, DType::bf16, du);
    for (int threads : {1, 2, 3}) {
      Backend cpu(isa, threads);
      const Outputs got = run(cpu, in, DType::bf16, du);
      for (auto field :
           {&Outputs::u, &Outputs::tail, &Outputs::dx, &Outputs::dw, &Outputs::dbias, &Outputs::dleft})
        EXPECT_EQ(got.*field, want.*field) << threads << " threads";
    }
  }
}

}  // namespace
}  // namespace jambalaya::test
