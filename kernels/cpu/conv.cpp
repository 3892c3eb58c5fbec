// Causal depthwise convolution with SiLU on the CPU: tasks of channels x tokens. The arithmetic is in
// simd/conv.simd.cpp.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/ops_cpu.h"
#include "kernels/op_checks.h"

namespace jambalaya {

namespace {

/// Two vectors of bf16 fill a cache line, so groups of this many channels never share one.
constexpr int64_t kGroup = 32;
constexpr int64_t kTokens = 256;
/// At most this many partial sums of the parameters' gradients, one per chunk of tokens.
constexpr int64_t kMaxChunks = 64;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class Op>
ConvInputs inputs(const Op& op) {
  const int64_t S = op.docs.count, E = op.w.shape[0], W = op.w.shape[1];
  return {.x = op.x.data,
          .x_stride = op.x.row_stride,
          .w = op.w.template ptr<float>(),
          .bias = op.bias ? op.bias.template ptr<float>() : nullptr,
          .offsets = op.docs.offsets,
          .segment_of = op.docs.segment_of,
          .left = op.left ? op.left.template ptr<float>() : nullptr,
          .channels = E,
          .width = W,
          .segments = S,
          .ends_only = op.ends_only};
}

/// tail [W-1, E]: row i = the input W - 1 - i places before `end` of the segment that begins at `begin`;
/// `left` (null: zero) is what came before it. `tail` may be `left`: row i is read from a row at or after it,
/// so rising i is safe.
void write_tail(const ConvForward& op, const ConvInputs& in, int64_t begin, int64_t end, const float* left,
                float* tail) {
  const int64_t past = in.width - 1, E = in.channels;
  for (int64_t i = 0; i < past; i++, tail += E) {
    const int64_t q = end - past + i, row = q * in.x_stride;
    if (q < begin) {
      if (!left)
        std::memset(tail, 0, size_t(E) * 4);
      else
        std::memmove(tail, left + (past + q - begin) * E, size_t(E) * 4);
    } else if (op.x.dtype == DType::f32) {
      std::memcpy(tail, op.x.ptr<float>() + row, size_t(E) * 4);
    } else {
      for (int64_t e = 0; e < E; e++) tail[e] = to_float(op.x.ptr<bf16>()[row + e]);
    }
  }
}

void write_tails(Context& ctx, const ConvForward& op, const ConvInputs& in) {
  const int64_t size = (in.width - 1) * in.channels, S = in.segments, T = op.docs.tokens;
  const int32_t* offsets = op.docs.offsets;
  float* tail = op.tail.ptr<float>();
  if (op.ends_only)  // without tokens: what came before, unchanged
    return write_tail(op, in, T ? offsets[S - 1] : 0, T, T == 0 || S == 1 ? in.left : nullptr, tail);
  ctx.pool->run(S, [&](int64_t s) {
    const float* left = in.left ? in.left + s * size : nullptr;
    write_tail(op, in, offsets[s], offsets[s + 1], left, tail + s * size);
  });
}

/// dleft of segments without tokens: their tail is their left. With ends_only an empty first segment of a
/// shard with tokens has no tail.
void pass_through_empty(const ConvBackward& op) {
  const int64_t entries = op.ends_only ? 1 : op.docs.count;
  for (int64_t s = 0; s < entries; s++) {
    const bool no_tokens = op.docs.tokens == 0;
    if (!no_tokens && op.docs.offsets[s] != op.docs.offsets[s + 1]) continue;
    const Tensor to = op.dleft.at(s);
    if (op.dtail && (no_tokens || !op.ends_only))
      std::memmove(to.data, op.dtail.at(s).data, size_t(to.bytes()));
    else
      std::memset(to.data, 0, size_t(to.bytes()));
  }
}

}  // namespace

void CpuOps::conv_forward(Context& ctx, const ConvForward& op) {
  check_op(op);
  const ConvInputs in = inputs(op);
  const int64_t T = op.docs.tokens, E = in.channels;
  const ConvForwardArgs args{.in = in, .u = op.u.data, .u_stride = op.u.row_stride};
  const int64_t groups = ceil_div(E, kGroup), chunks = ceil_div(T, kTokens);
  ArenaScope scope(*ctx.scratch);
  const int64_t floats = simd_.conv.scratch(in.width);
  float* scratch = ctx.scratch->array<float>(groups * chunks * floats, "conv");
  auto kernel = op.x.dtype == DType::bf16 ? simd_.conv.forward_bf16 : simd_.conv.forward_f32;
  ctx.pool->run(groups * chunks, [&](int64_t i) {
    const int64_t g = i % groups, c = i / groups;
    kernel(args, {.e0 = g * kGroup,
                  .e1 = std::min(E, (g + 1) * kGroup),
                  .t0 = c * kTokens,
                  .t1 = std::min(T, (c + 1) * kTokens),
                  .scratch = scratch + i * floats});
  });
  // After all of `left` was read.
  if (op.tail) write_tails(ctx, op, in);
}

void CpuOps::conv_backward(Context& ctx, const ConvBackward& op) {
  check_op(op);
  const ConvInputs in = inputs(op);
  const DType act = op.x.dtype;
  const int64_t T = op.docs.tokens, E = in.channels, W = in.width;
  const ConvBackwardArgs args{.in = in,
                              .du = op.du.data,
                              .du_stride = op.du.row_stride,
                              .dx = op.dx.data,
                              .dx_stride = op.dx.row_stride,
                              .dleft = op.dleft ? op.dleft.ptr<float>() : nullptr,
                              .dtail = op.dtail ? op.dtail.ptr<float>() : nullptr};
  const int64_t tokens = std::max(kTokens, ceil_div(ceil_div(T, kMaxChunks), kConvTile) * kConvTile);
  const int64_t groups = ceil_div(E, kGroup), chunks = ceil_div(T, tokens);
  ArenaScope scope(*ctx.scratch);
  const int64_t floats = simd_.conv.scratch(W);
  float* scratch = ctx.scratch->array<float>(groups * chunks * floats, "conv");
  float* partial = ctx.scratch->array<float>(chunks * (W + 1) * E, "conv");
  auto kernel = act == DType::f32           ? simd_.conv.backward_f32
                : op.du.dtype == DType::f32 ? simd_.conv.backward_bf16_du_f32
                                            : simd_.conv.backward_bf16;
  ctx.pool->run(groups * chunks, [&](int64_t i) {
    const int64_t g = i % groups, c = i / groups;
    kernel(args,
           {.e0 = g * kGroup,
            .e1 = std::min(E, (g + 1) * kGroup),
            .t0 = c * tokens,
            .t1 = std::min(T, (c + 1) * tokens),
            .scratch = scratch + i * floats},
           partial + c * (W + 1) * E);
  });
  float *dw = op.dw.ptr<float>(), *dbias = op.bias ? op.dbias.ptr<float>() : nullptr;
  ctx.pool->run_range(E, kGroup, [&](int64_t e0, int64_t e1) {
    for (int64_t c = 0; c < chunks; c++)
      for (int64_t j = 0; j <= W; j++) {
        const float* sums = partial + (c * (W + 1) + j) * E;
        for (int64_t e = e0; e < e1; e++)
          if (j < W)
            dw[e * W + j] += sums[e];
          else if (dbias)
            dbias[e] += sums[e];
      }
  });
  if (op.dleft) pass_through_empty(op);
}

}  // namespace jambalaya
