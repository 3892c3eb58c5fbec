// Causal depthwise convolution of width 4 and SiLU. Legend: kernels/ops.h, ops_state_space.h. Bound by
// memory: every input is read once and every output written once, but for the three tokens at each side of a
// chunk.
//
// One thread walks the tokens of a chunk for V neighbouring channels; the inputs of the last three tokens
// stay in registers.
#include "kernels/cuda/conv.h"

#include "kernels/cuda/documents_cuda.h"
#include "kernels/cuda/logistic.h"
#include "kernels/cuda/vector.h"

namespace jambalaya::cuda {
namespace {

constexpr int kThreads = 128, kTaps = 4, kPast = 3;
/// Rows that are loaded ahead of the arithmetic.
constexpr int kAhead = 4;
constexpr int64_t kForwardChunk = 64;

/// What one thread keeps while it walks along the tokens of V channels from e.
template <class A, int V>
struct Walk {
  const ConvStream<A>& in;
  int64_t e, segment, begin, end;  ///< the segment that the current token lies in
  float taps[kTaps][V], bias[V], window[kPast][V];

  __device__ Walk(const ConvStream<A>& stream, int64_t channel, int64_t t) : in(stream), e(channel) {
#pragma unroll
    for (int i = 0; i < V; i++) {
      bias[i] = in.bias ? in.bias[e + i] : 0.f;
#pragma unroll
      for (int j = 0; j < kTaps; j++) taps[j][i] = in.w[(e + i) * kTaps + j];
    }
    enter(t);
  }
  /// The inputs before token t, those before its segment from `left`.
  __device__ void enter(int64_t t) {
    segment = in.segment_of[t], begin = in.offsets[segment], end = in.offsets[segment + 1];
    const float* left = start_entry(in.left, kPast * in.channels, segment, in.ends_only);
#pragma unroll
    for (int j = 0; j < kPast; j++) {
      const int64_t q = t - kPast + j;
#pragma unroll
      for (int i = 0; i < V; i++) window[j][i] = 0.f;
      if (q >= begin)
        load<V>(window[j], in.x + q * in.x_stride + e);
      else if (left)
        for (int i = 0; i < V; i++) window[j][i] = left[(kPast + q - begin) * in.channels + e + i];
    }
  }
  /// Output of channel i before SiLU; the oldest tap first.
  __device__ __forceinline__ float convolve(int i, float x) const {
    float v = bias[i];
#pragma unroll
    for (int j = 0; j < kPast; j++) v = fmaf(taps[j][i], window[j][i], v);
    return fmaf(taps[kPast][i], x, v);
  }
  __device__ __forceinline__ void shift(const float (&x)[V]) {
#pragma unroll
    for (int i = 0; i < V; i++) window[0][i] = window[1][i], window[1][i] = window[2][i], window[2][i] = x[i];
  }
};

template <class A, int V>
__global__ __launch_bounds__(kThreads, 4) void conv_forward_kernel(ConvStream<A> in, A* u, int64_t u_stride) {
  const int64_t packs = in.channels / V, i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t t0 = i / packs * kForwardChunk,
                t1 = t0 + kForwardChunk < in.tokens ? t0 + kForwardChunk : in.tokens;
  if (t0 >= in.tokens) return;
  Walk<A, V> walk(in, i % packs * V, t0);
  for (int64_t t = t0; t < t1; t += kAhead) {
    float x[kAhead][V];
#pragma unroll
    for (int k = 0; k < kAhead; k++)
      if (t + k < t1) load<V>(x[k], in.x + (t + k) * in.x_stride + walk.e);
#pragma unroll
    for (int k = 0; k < kAhead; k++) {
      if (t + k >= t1) break;
      if (t + k == walk.end) walk.enter(t + k);
      float out[V];
#pragma unroll
      for (int c = 0; c < V; c++) out[c] = silu(walk.convolve(c, x[k][c]));
      store<V>(u + (t + k) * u_stride + walk.e, out);
      walk.shift(x[k]);
    }
  }
}

/// The gradient of the inputs: pending[m] collects the one of the input 3 - m places before the current
/// token, oldest contribution first; an input before its segment is one of `left`. Tokens outside of [t0, t1)
/// belong to another thread.
template <class A, int V>
struct InputGradient {
  const Walk<A, V>& walk;
  const ConvGradients<A>& out;
  int64_t t0, t1;
  float pending[kPast][V];

  __device__ void start() {
#pragma unroll
    for (int m = 0; m < kPast; m++)
#pragma unroll
      for (int i = 0; i < V; i++) pending[m][i] = 0.f;
  }
  /// The gradient of input q is whole.
  __device__ __forceinline__ void put(int64_t q, const float (&dx)[V]) {
    if (q >= walk.begin) {
      if (q >= t0 && q < t1) store<V>(out.dx + q * out.dx_stride + walk.e, dx);
    } else if (walk.begin >= t0) {
      const int64_t E = walk.in.channels;
      float* dleft = start_entry(out.dleft, kPast * E, walk.segment, walk.in.ends_only);
      if (dleft)
        for (int i = 0; i < V; i++) dleft[(kPast + q - walk.begin) * E + walk.e + i] = dx[i];
    }
  }
  /// Token t has passed back dv.
  __device__ __forceinline__ void step(int64_t t, const float (&dv)[V]) {
    float whole[V];
#pragma unroll
    for (int i = 0; i < V; i++) {
      whole[i] = fmaf(walk.taps[0][i], dv[i], pending[0][i]);
      pending[0][i] = fmaf(walk.taps[1][i], dv[i], pending[1][i]);
      pending[1][i] = fmaf(walk.taps[2][i], dv[i], pending[2][i]);
      pending[2][i] = walk.taps[3][i] * dv[i];
    }
    put(t - kPast, whole);
  }
  /// The segment ends: nothing more comes but from its tail.
  __device__ void finish() {
    const int64_t E = walk.in.channels;
    const float* dtail = end_entry(out.dtail, kPast * E, walk.segment, walk.in.segments, walk.in.ends_only);
#pragma unroll
    for (int m = 0; m < kPast; m++) {
      if (dtail)
        for (int i = 0; i < V; i++) pending[m][i] += dtail[m * E + walk.e + i];
      put(walk.end - kPast + m, pending[m]);
    }
  }
};

/// partial [chunks][kTaps + 1][E]: sums over the chunk's tokens for dw (transposed) and, last row, dbias. The
/// chunk's last inputs need the three tokens after it, which are walked here once more.
template <class A, class D, int V>
__global__ __launch_bounds__(kThreads, 4) void conv_backward_kernel(ConvStream<A> in, const D* du,
                                                                    int64_t du_stride, ConvGradients<A> out,
                                                                    int64_t chunk, float* partial) {
  const int64_t packs = in.channels / V, i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t t0 = i / packs * chunk, t1 = t0 + chunk < in.tokens ? t0 + chunk : in.tokens;
  if (t0 >= in.tokens) return;
  const int64_t reach = t1 + kPast < in.tokens ? t1 + kPast : in.tokens;
  Walk<A, V> walk(in, i % packs * V, t0);
  InputGradient<A, V> gradient{walk, out, t0, t1};
  gradient.start();
  float sums[kTaps + 1][V] = {};
  bool done = false;
  for (int64_t t = t0; !done; t += kAhead) {
    float x[kAhead][V], d[kAhead][V];
#pragma unroll
    for (int k = 0; k < kAhead; k++)
      if (t + k < reach) {
        load<V>(x[k], in.x + (t + k) * in.x_stride + walk.e);
        load<V>(d[k], du + (t + k) * du_stride + walk.e);
      }
#pragma unroll
    for (int k = 0; k < kAhead; k++) {
      const bool ends = t + k == walk.end;
      if (ends) gradient.finish();
      done = ends ? t + k >= t1 : t + k >= t1 + kPast;
      if (done) break;
      if (ends) walk.enter(t + k), gradient.start();
#pragma unroll
      for (int c = 0; c < V; c++) {
        d[k][c] *= silu_slope(walk.convolve(c, x[k][c]));
        if (t + k < t1) {
#pragma unroll
          for (int j = 0; j < kPast; j++) sums[j][c] = fmaf(d[k][c], walk.window[j][c], sums[j][c]);
          sums[kPast][c] = fmaf(d[k][c], x[k][c], sums[kPast][c]);
          sums[kTaps][c] += d[k][c];
        }
      }
      gradient.step(t + k, d[k]);
      walk.shift(x[k]);
    }
  }
  float* const to = partial + i / packs * (kTaps + 1) * in.channels + walk.e;
#pragma unroll
  for (int j = 0; j <= kTaps; j++)
    for (int c = 0; c < V; c++) to[j * in.channels + c] = sums[j][c];
}

template <class A, int V>
void start_forward(const Context& ctx, const ConvForward& op, const ConvStream<A>& in) {
  const int64_t threads = in.channels / V * div_up(in.tokens, kForwardChunk);
  launch(ctx, "conv_forward", conv_forward_kernel<A, V>, {grid_of(div_up(threads, kThreads)), kThreads}, in,
         op.u.ptr<A>(), op.u.row_stride);
}

template <class A, class D, int V>
void start_backward(const Context& ctx, const ConvBackward& op, const ConvStream<A>& in) {
  // About 2^17 threads, as many as fill the largest GPUs, and at most 10 MB of partial sums.
  constexpr int64_t kTarget = int64_t(1) << 17;
  const int64_t packs = in.channels / V;
  const int64_t chunk = std::max<int64_t>(64, div_up(in.tokens * packs, kTarget)),
                chunks = div_up(in.tokens, chunk);
  ArenaScope scope(*ctx.scratch);
  float* const partial = ctx.scratch->array<float>(chunks * (kTaps + 1) * in.channels, "conv");
  launch(ctx, "conv_backward", conv_backward_kernel<A, D, V>,
         {grid_of(div_up(packs * chunks, kThreads)), kThreads}, in, op.du.ptr<D>(), op.du.row_stride,
         conv_gradients<A>(op), chunk, partial);
  sum_conv_partials(ctx, op, partial, chunks);
}

}  // namespace

template <class A>
void conv_forward_width_4(const Context& ctx, const ConvForward& op, const ConvStream<A>& in) {
  if (access_width(in.channels, op.x, op.u) >= 4)
    start_forward<A, 4>(ctx, op, in);
  else
    start_forward<A, 1>(ctx, op, in);
}
template <class A, class D>
void conv_backward_width_4(const Context& ctx, const ConvBackward& op, const ConvStream<A>& in) {
  if (access_width(in.channels, op.x, op.du, op.dx) >= 2)
    start_backward<A, D, 2>(ctx, op, in);
  else
    start_backward<A, D, 1>(ctx, op, in);
}
template void conv_forward_width_4(const Context&, const ConvForward&, const ConvStream<float>&);
template void conv_forward_width_4(const Context&, const ConvForward&, const ConvStream<bf16>&);
template void conv_backward_width_4<float, float>(const Context&, const ConvBackward&,
                                                  const ConvStream<float>&);
template void conv_backward_width_4<bf16, float>(const Context&, const ConvBackward&,
                                                 const ConvStream<bf16>&);
template void conv_backward_width_4<bf16, bf16>(const Context&, const ConvBackward&, const ConvStream<bf16>&);

}  // namespace jambalaya::cuda
