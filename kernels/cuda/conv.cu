// Causal depthwise convolution with SiLU: the ops, what they do with carried states, and the sums over
// chunks. Legend: kernels/ops.h, ops_state_space.h.
#include "kernels/cuda/conv.h"

#include "kernels/check.h"
#include "kernels/cuda/documents_cuda.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/vector.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

constexpr int kThreads = 256;

/// Checks what both directions read, and describes it to the kernels.
template <class A, class Op>
ConvStream<A> stream_of(const Op& op, const Documents& docs) {
  return {.x = op.x.template ptr<A>(),
          .x_stride = op.x.row_stride,
          .w = op.w.template ptr<float>(),
          .bias = op.bias ? op.bias.template ptr<float>() : nullptr,
          .offsets = docs.device_offsets,
          .segment_of = docs.device_segment_of,
          .left = op.left ? op.left.template ptr<float>() : nullptr,
          .channels = op.w.shape[0],
          .width = op.w.shape[1],
          .tokens = docs.tokens,
          .segments = docs.count,
          .ends_only = op.ends_only};
}
/// tail [entries][W - 1][E], one thread per entry and channel: row i = the input W - 1 - i places before the
/// segment's end. `tail` may be `left`: row i is read from a row at or after it, so rising i is safe.
template <class A>
__global__ void conv_tail_kernel(ConvStream<A> in, float* tails, int64_t entries) {
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= entries * in.channels) return;
  const int64_t E = in.channels, e = index % E, past = in.width - 1;
  const int64_t entry = index / E, s = in.ends_only && in.segments ? in.segments - 1 : entry;
  const int64_t begin = in.tokens ? in.offsets[s] : 0, end = in.tokens ? in.offsets[s + 1] : 0;
  // With ends_only the one `left` is the first segment's; a shard without tokens passes it on.
  const float* left = in.left && in.ends_only && in.tokens && in.segments > 1 ? nullptr : in.left;
  if (left) left += entry * past * E;
  float* const tail = tails + entry * past * E;
  for (int64_t i = 0; i < past; i++) {
    const int64_t q = end - past + i;
    tail[i * E + e] = q >= begin ? as_float(in.x[q * in.x_stride + e])
                      : left     ? left[(past + q - begin) * E + e]
                                 : 0.f;
  }
}

/// dleft of segments without tokens: their tail is their left. With ends_only an empty first segment of a
/// shard with tokens has no tail.
__global__ void conv_empty_segments_kernel(const int32_t* offsets, float* dleft, const float* dtail,
                                           int64_t size, int64_t entries, int64_t tokens, bool ends_only) {
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= entries * size) return;
  const int64_t s = index / size;
  if (tokens && offsets[s] != offsets[s + 1]) return;
  dleft[index] = dtail && (!tokens || !ends_only) ? dtail[index] : 0.f;
}

__global__ void conv_sum_partials_kernel(const float* partial, int64_t chunks, int64_t channels,
                                         int64_t width, float* dw, float* dbias) {
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x, size = (width + 1) * channels;
  if (index >= size) return;
  float sum = 0;
  for (int64_t c = 0; c < chunks; c++) sum += partial[c * size + index];
  const int64_t j = index / channels, e = index % channels;
  if (j < width)
    dw[e * width + j] += sum;
  else if (dbias)
    dbias[e] += sum;
}

template <class A>
void forward(const Context& ctx, const ConvForward& op, const Documents& docs) {
  const ConvStream<A> in = stream_of<A>(op, docs);
  (in.width == 4 ? conv_forward_width_4<A> : conv_forward_any_width<A>)(ctx, op, in);
  if (!op.tail) return;  // after all of `left` was read
  const int64_t entries = op.ends_only ? 1 : docs.count;
  launch(ctx, "conv_tail", conv_tail_kernel<A>, {grid_of(div_up(entries * in.channels, kThreads)), kThreads},
         in, op.tail.ptr<float>(), entries);
}

template <class A, class D>
void backward(const Context& ctx, const ConvBackward& op, const Documents& docs) {
  const ConvStream<A> in = stream_of<A>(op, docs);
  (in.width == 4 ? conv_backward_width_4<A, D> : conv_backward_any_width<A, D>)(ctx, op, in);
  if (!op.dleft) return;
  const int64_t entries = op.ends_only ? 1 : docs.count, size = (in.width - 1) * in.channels;
  launch(ctx, "conv_empty_segments", conv_empty_segments_kernel,
         {grid_of(div_up(entries * size, kThreads)), kThreads}, in.offsets, op.dleft.ptr<float>(),
         op.dtail ? op.dtail.ptr<float>() : nullptr, size, entries, docs.tokens, op.ends_only);
}

}  // namespace

void sum_conv_partials(const Context& ctx, const ConvBackward& op, const float* partial, int64_t chunks) {
  const int64_t E = op.w.shape[0], W = op.w.shape[1];
  launch(ctx, "conv_sum_partials", conv_sum_partials_kernel,
         {grid_of(div_up((W + 1) * E, kThreads)), kThreads}, partial, chunks, E, W, op.dw.ptr<float>(),
         op.bias ? op.dbias.ptr<float>() : nullptr);
}

void CudaOps::conv_forward(Context& ctx, const ConvForward& op) {
  check_op(op);
  ArenaScope scope(*ctx.scratch);
  const Documents docs = device_documents(ctx, op.docs);
  (act_kind(op.x) ? forward<bf16> : forward<float>)(ctx, op, docs);
}

void CudaOps::conv_backward(Context& ctx, const ConvBackward& op) {
  check_op(op);
  const DType act = op.x.dtype;
  const bool du_f32 = op.du.dtype == DType::f32;
  ArenaScope scope(*ctx.scratch);
  const Documents docs = device_documents(ctx, op.docs);
  if (act == DType::f32)
    backward<float, float>(ctx, op, docs);
  else
    (du_f32 ? backward<bf16, float> : backward<bf16, bf16>)(ctx, op, docs);
}

}  // namespace jambalaya::cuda
