// Causal depthwise convolution of any width and SiLU: one thread for each output, which reads its taps'
// inputs from the caches. Legend: kernels/ops.h, ops_state_space.h.
#include "kernels/cuda/conv.h"
#include "kernels/cuda/documents_cuda.h"
#include "kernels/cuda/logistic.h"
#include "kernels/cuda/vector.h"

namespace jambalaya::cuda {
namespace {

constexpr int kThreads = 256;
/// Tokens of one partial sum of dw and dbias.
constexpr int64_t kChunk = 256;

/// Input of token q as segment s, which begins at `begin`, sees it; q >= begin - (W - 1).
template <class A>
__device__ __forceinline__ float input(const ConvStream<A>& in, int64_t s, int64_t begin, int64_t q,
                                       int64_t e) {
  if (q >= begin) return as_float(in.x[q * in.x_stride + e]);
  const float* left = start_entry(in.left, (in.width - 1) * in.channels, s, in.ends_only);
  return left ? left[(in.width - 1 + q - begin) * in.channels + e] : 0.f;
}

/// Output of token t before SiLU; the oldest tap first.
template <class A>
__device__ float convolve(const ConvStream<A>& in, int64_t t, int64_t e) {
  const int64_t s = in.segment_of[t], begin = in.offsets[s];
  float v = in.bias ? in.bias[e] : 0.f;
  for (int64_t j = 0; j < in.width; j++)
    v = fmaf(in.w[e * in.width + j], input(in, s, begin, t - in.width + 1 + j, e), v);
  return v;
}

template <class A>
__global__ void conv_any_width_forward_kernel(ConvStream<A> in, A* u, int64_t u_stride) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= in.tokens * in.channels) return;
  const int64_t t = i / in.channels, e = i % in.channels;
  u[t * u_stride + e] = from_float<A>(silu(convolve(in, t, e)));
}

/// dv [t1 - t0, E]: gradients before SiLU of tokens [t0, t1).
template <class A, class D>
__global__ void conv_any_width_dv_kernel(ConvStream<A> in, const D* du, int64_t du_stride, int64_t t0,
                                         int64_t t1, float* dv) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, t = t0 + i / in.channels;
  if (t >= t1) return;
  dv[i] = as_float(du[t * du_stride + i % in.channels]) * silu_slope(convolve(in, t, i % in.channels));
}

/// dx of tokens [t0, t1), and dleft of the segments that begin there. dv begins at token t0 and reaches W - 1
/// tokens beyond t1, or to the stream's end.
template <class A>
__global__ void conv_any_width_dx_kernel(ConvStream<A> in, ConvGradients<A> out, const float* dv, int64_t t0,
                                         int64_t t1) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, t = t0 + i / in.channels;
  if (t >= t1) return;
  const int64_t E = in.channels, e = i % E, past = in.width - 1;
  const int64_t s = in.segment_of[t], begin = in.offsets[s], end = in.offsets[s + 1];
  const float *own = dv + i, *w = in.w + e * in.width;
  const float* dtail = end_entry(out.dtail, past * E, s, in.segments, in.ends_only);
  float dx = 0;
  for (int64_t k = 0; k <= past && t + k < end; k++) dx = fmaf(w[past - k], own[k * E], dx);
  if (dtail && t >= end - past) dx += dtail[(t - end + past) * E + e];
  out.dx[t * out.dx_stride + e] = from_float<A>(dx);
  float* dleft = start_entry(out.dleft, past * E, s, in.ends_only);
  if (t != begin || !dleft) return;
  for (int64_t k = 0; k < past; k++) {  // input k - (W - 1) meets tap k - j at token j
    float sum = 0;
    for (int64_t j = 0; j <= k && t + j < end; j++) sum = fmaf(w[k - j], own[j * E], sum);
    if (dtail && k >= end - begin) sum += dtail[(k - (end - begin)) * E + e];
    dleft[k * E + e] = sum;
  }
}

/// partial [chunks][W + 1][E] of tokens [t0, t1): one thread per element.
template <class A>
__global__ void conv_any_width_dw_kernel(ConvStream<A> in, const float* dv, int64_t t0, int64_t t1,
                                         int64_t elements, float* partial) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= elements) return;
  const int64_t E = in.channels, W = in.width, e = i % E, j = i / E % (W + 1);
  const int64_t begin = t0 + i / (E * (W + 1)) * kChunk, end = begin + kChunk < t1 ? begin + kChunk : t1;
  float sum = 0;
  for (int64_t t = begin; t < end; t++) {
    const float own = dv[(t - t0) * E + e];
    const int64_t s = in.segment_of[t];
    sum = j == W ? sum + own : fmaf(own, input(in, s, int64_t(in.offsets[s]), t - W + 1 + j, e), sum);
  }
  partial[i] = sum;
}

Shape shape_for(int64_t threads) { return {grid_of(div_up(threads, kThreads)), kThreads}; }

}  // namespace

template <class A>
void conv_forward_any_width(const Context& ctx, const ConvForward& op, const ConvStream<A>& in) {
  launch(ctx, "conv_any_width_forward", conv_any_width_forward_kernel<A>, shape_for(in.tokens * in.channels),
         in, op.u.ptr<A>(), op.u.row_stride);
}

template <class A, class D>
void conv_backward_any_width(const Context& ctx, const ConvBackward& op, const ConvStream<A>& in) {
  const int64_t E = in.channels, T = in.tokens, past = in.width - 1;
  // Tokens at a time: dv in scratch takes 64 MB.
  const int64_t slab = std::max(kChunk, (int64_t(1) << 24) / std::max<int64_t>(E, 1) / kChunk * kChunk);
  for (int64_t t0 = 0; t0 < T && E; t0 += slab) {
    ArenaScope scope(*ctx.scratch);
    const int64_t t1 = std::min(T, t0 + slab), reach = std::min(T, t1 + past),
                  chunks = div_up(t1 - t0, kChunk);
    float* const dv = ctx.scratch->array<float>((reach - t0) * E, "conv");
    float* const partial = ctx.scratch->array<float>(chunks * (in.width + 1) * E, "conv");
    launch(ctx, "conv_any_width_dv", conv_any_width_dv_kernel<A, D>, shape_for((reach - t0) * E), in,
           op.du.ptr<D>(), op.du.row_stride, t0, reach, dv);
    launch(ctx, "conv_any_width_dx", conv_any_width_dx_kernel<A>, shape_for((t1 - t0) * E), in,
           conv_gradients<A>(op), dv, t0, t1);
    launch(ctx, "conv_any_width_dw", conv_any_width_dw_kernel<A>, shape_for(chunks * (in.width + 1) * E), in,
           dv, t0, t1, chunks * (in.width + 1) * E, partial);
    sum_conv_partials(ctx, op, partial, chunks);
  }
}

template void conv_forward_any_width(const Context&, const ConvForward&, const ConvStream<float>&);
template void conv_forward_any_width(const Context&, const ConvForward&, const ConvStream<bf16>&);
template void conv_backward_any_width<float, float>(const Context&, const ConvBackward&,
                                                    const ConvStream<float>&);
template void conv_backward_any_width<bf16, float>(const Context&, const ConvBackward&,
                                                   const ConvStream<bf16>&);
template void conv_backward_any_width<bf16, bf16>(const Context&, const ConvBackward&,
                                                  const ConvStream<bf16>&);

}  // namespace jambalaya::cuda
