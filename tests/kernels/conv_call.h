// One call of the convolution with all its tensors: shared by the tests of the convolution and of its shards.
#pragma once
#include "tests/kernels/reference/conv.h"
#include "tests/support/cpu_fixture.h"

namespace jambalaya::test {

using reference::Conv;

inline Values part(const Values& v, int64_t from, int64_t count) {
  return v.empty() ? v : Values(v.begin() + from, v.begin() + from + count);
}
inline Values joined(Values x, const Values& y) {
  x.insert(x.end(), y.begin(), y.end());
  return x;
}

struct ConvOptions {
  bool bias = true, left = true;
};

inline Conv make_conv(int64_t E, int64_t W, std::vector<int64_t> lengths, ConvOptions with = {},
                      uint64_t seed = 1) {
  Conv in;
  in.E = E;
  in.W = W;
  in.lengths = std::move(lengths);
  in.x = normal(in.T() * E, seed);
  in.w = normal(E * W, seed + 1, 0.5);
  if (with.bias) in.bias = normal(E, seed + 2);
  if (with.left) in.left = normal(in.S() * (W - 1) * E, seed + 3);
  return in;
}

struct ConvOutputs {
  Values u, tail, dx, dw, dbias, dleft;
};

/// The tensors of one call. Rows of x, u, du and dx are strided; outputs are poisoned; "+=" gradients start
/// at `before`.
struct ConvCall {
  int64_t gap = 3;  ///< between rows of x, u, du and dx; 0 or 8 where kernels are to read several at once
  const Conv& in;
  DType act;
  bool ends_only;
  Owned x, w, bias, left;
  DocumentsBuffer docs;
  double before = 1;  ///< gradients of parameters before the call

  ConvCall(const Conv& conv, DType type, bool is_shard = false, int64_t between_rows = 3)
      : gap(between_rows),
        in(conv),
        act(type),
        ends_only(is_shard),
        x(act, {in.T(), in.E}, in.x, gap),
        w(DType::f32, {in.E, in.W}, in.w),
        bias(DType::f32, {in.bias.empty() ? 0 : in.E}, in.bias),
        left(DType::f32, {in.left.empty() ? 0 : entries(), in.W - 1, in.E}, in.left),
        docs(in.lengths) {}

  /// Of `left` and `tail`.
  int64_t entries() const { return ends_only ? 1 : in.S(); }

  template <class Op>
  void describe(Op& op) const {
    op.ends_only = ends_only;
    op.x = x;
    op.w = w;
    if (!in.bias.empty()) op.bias = bias;
    if (!in.left.empty()) op.left = left;
    op.docs = docs.view();
  }
  void forward(Backend& cpu, ConvOutputs& out) const {
    Owned u(act, {in.T(), in.E}, gap), tail(DType::f32, {entries(), in.W - 1, in.E});
    ConvForward op;
    describe(op);
    op.u = u;
    op.tail = tail;
    cpu->conv_forward(cpu, op);
    EXPECT_TRUE(u.gaps_untouched());
    out.u = u.values();
    out.tail = tail.values();
  }
  void backward(Backend& cpu, const Values& d_u, DType du_type, const Values& d_tail,
                ConvOutputs& out) const {
    Owned du(du_type, {in.T(), in.E}, d_u, gap), dx(act, {in.T(), in.E}, gap);
    Owned dw(DType::f32, {in.E, in.W}, Values(size_t(in.E * in.W), before)),
        dbias(DType::f32, {in.E}, Values(size_t(in.E), before));
    Owned dleft(DType::f32, {entries(), in.W - 1, in.E}),
        dtail(DType::f32, {d_tail.empty() ? 0 : entries(), in.W - 1, in.E}, d_tail);
    ConvBackward op;
    describe(op);
    op.du = du;
    op.dx = dx;
    op.dw = dw;
    if (!in.bias.empty()) op.dbias = dbias;
    op.dleft = dleft;
    if (!d_tail.empty()) op.dtail = dtail;
    cpu->conv_backward(cpu, op);
    EXPECT_TRUE(dx.gaps_untouched());
    out.dx = dx.values();
    out.dw = dw.values();
    out.dbias = dbias.values();
    out.dleft = dleft.values();
  }
};

}  // namespace jambalaya::test
