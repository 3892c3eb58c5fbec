// Causal depthwise convolution with SiLU. Work goes run by run (the part of a segment inside a tile): the
// run's inputs are copied to scratch behind the W - 1 inputs before them, so that no loop below asks about
// borders.
#include "kernels/cpu/simd/conv.h"

#include "kernels/cpu/simd/logistic.h"

namespace jambalaya::JAMBALAYA_NS {
namespace {

struct Tile {
  float *x, *v;         // [kConvTile + 2 (W - 1)][L]: inputs from W - 1 before the run on; v or its gradient
  float *taps, *dtaps;  // [W][L]
};

int64_t scratch_floats(int64_t width) { return (2 * (kConvTile + 2 * (width - 1)) + 2 * width) * L; }

Tile carve(float* p, int64_t width) {
  Tile w;
  w.x = p;
  w.v = w.x + (kConvTile + 2 * (width - 1)) * L;
  w.taps = w.v + (kConvTile + 2 * (width - 1)) * L;
  w.dtaps = w.taps + width * L;
  return w;
}

void load_taps(const ConvInputs& in, int64_t e, int64_t lanes, float* taps) {
  for (int64_t j = 0; j < in.width; j++)
    for (int64_t i = 0; i < L; i++) taps[j * L + i] = i < lanes ? in.w[(e + i) * in.width + j] : 0.0f;
}

/// Where segment s has its entry [W - 1, E] among those of starts (of ends); null: none given, or none of its
/// own.
template <class P>
P* start_entry(const ConvInputs& in, P* entries, int64_t s) {
  if (!entries || (in.ends_only && s > 0)) return nullptr;
  return entries + s * (in.width - 1) * in.channels;
}
template <class P>
P* end_entry(const ConvInputs& in, P* entries, int64_t s) {
  if (!entries || (in.ends_only && s + 1 < in.segments)) return nullptr;
  return entries + (in.ends_only ? 0 : s) * (in.width - 1) * in.channels;
}

/// Inputs of tokens [t - (W - 1), t + count); those before segment s begins come from `left` or are 0.
template <class A>
void stage(const ConvInputs& in, int64_t e, int64_t lanes, int64_t s, int64_t t, int64_t count, float* to) {
  const int64_t past = in.width - 1, begin = in.offsets[s];
  const float* left = start_entry(in, in.left, s);
  for (int64_t q = t - past; q < t + count; q++, to += L) {
    Vec x = zero();
    if (q >= begin)
      x = load(row<A>(in.x, q * in.x_stride + e), lanes);
    else if (left)
      x = load(left + (past + q - begin) * in.channels + e, lanes);
    store(to, x);
  }
}

/// v[i] = bias + sum_j taps[j] x[i + j]. kWidth 0: any width.
template <int kWidth>
void convolve(const Tile& w, int64_t width, Vec bias, int64_t count) {
  if constexpr (kWidth != 0) {
    Vec taps[kWidth], window[kWidth];
#pragma GCC unroll 8
    for (int j = 0; j < kWidth; j++)
      taps[j] = load(w.taps + j * L), window[j] = j ? load(w.x + (j - 1) * L) : zero();
    for (int64_t i = 0; i < count; i++) {
#pragma GCC unroll 8
      for (int j = 0; j + 1 < kWidth; j++) window[j] = window[j + 1];
      window[kWidth - 1] = load(w.x + (i + kWidth - 1) * L);
      Vec v = bias;
#pragma GCC unroll 8
      for (int j = 0; j < kWidth; j++) v = fma(taps[j], window[j], v);
      store(w.v + i * L, v);
    }
  } else {
    for (int64_t i = 0; i < count; i++) {
      Vec v = bias;
      for (int64_t j = 0; j < width; j++) v = fma(load(w.taps + j * L), load(w.x + (i + j) * L), v);
      store(w.v + i * L, v);
    }
  }
}

void convolve_any(const Tile& w, int64_t width, Vec bias, int64_t count) {
  (width == 4 ? convolve<4> : convolve<0>)(w, width, bias, count);
}

template <class A>
void forward(const ConvForwardArgs& g, const ConvTask& task) {
  const ConvInputs& in = g.in;
  const Tile w = carve(task.scratch, in.width);
  for (int64_t e = task.e0; e < task.e1; e += L) {
    const int64_t lanes = min_i(L, task.e1 - e);
    const Vec bias = in.bias ? load(in.bias + e, lanes) : zero();
    load_taps(in, e, lanes, w.taps);
    for (int64_t t = task.t0, end; t < task.t1; t = end) {
      const int64_t s = in.segment_of[t];
      end = min_i(min_i(task.t1, in.offsets[s + 1]), t + kConvTile);
      stage<A>(in, e, lanes, s, t, end - t, w.x);
      convolve_any(w, in.width, bias, end - t);
      for (int64_t i = 0; i < end - t; i++) {
        Vec v = load(w.v + i * L);
        store(row<A>(g.u, (t + i) * g.u_stride + e), v * logistic_of(v, exp_minus_abs(v)).value, lanes);
      }
    }
  }
}

/// dtaps[j] += sum_i dv[i] x[i + j] over the run. kWidth 0: any width.
template <int kWidth>
void tap_gradients(const Tile& w, int64_t width, int64_t count) {
  if constexpr (kWidth != 0) {
    Vec sums[kWidth];
#pragma GCC unroll 8
    for (int j = 0; j < kWidth; j++) sums[j] = zero();
    for (int64_t i = 0; i < count; i++) {
      Vec dv = load(w.v + i * L);
#pragma GCC unroll 8
      for (int j = 0; j < kWidth; j++) sums[j] = fma(dv, load(w.x + (i + j) * L), sums[j]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < kWidth; j++) store(w.dtaps + j * L, load(w.dtaps + j * L) + sums[j]);
  } else {
    for (int64_t j = 0; j < width; j++) {
      Vec sum = zero();
      for (int64_t i = 0; i < count; i++) sum = fma(load(w.v + i * L), load(w.x + (i + j) * L), sum);
      store(w.dtaps + j * L, load(w.dtaps + j * L) + sum);
    }
  }
}

/// dx of the run: what u passes back, sum_k taps[W - 1 - k] dv[i + k], and what the tail of the segment does.
template <class A>
void input_gradient(const ConvBackwardArgs& g, const Tile& w, int64_t e, int64_t lanes, int64_t s, int64_t t,
                    int64_t count) {
  const ConvInputs& in = g.in;
  const int64_t past = in.width - 1, tail_begin = in.offsets[s + 1] - past;
  const float* dtail = end_entry(in, g.dtail, s);
  for (int64_t i = 0; i < count; i++) {
    Vec dx = zero();
    for (int64_t k = 0; k <= past; k++) dx = fma(load(w.taps + (past - k) * L), load(w.v + (i + k) * L), dx);
    if (dtail && t + i >= tail_begin) dx = dx + load(dtail + (t + i - tail_begin) * in.channels + e, lanes);
    store(row<A>(g.dx, (t + i) * g.dx_stride + e), dx, lanes);
  }
}

/// dleft of segment s, whose first token is the run's first: input k - (W - 1) meets tap k - i at token i.
void left_gradient(const ConvBackwardArgs& g, const Tile& w, int64_t e, int64_t lanes, int64_t s) {
  const ConvInputs& in = g.in;
  const int64_t past = in.width - 1, length = in.offsets[s + 1] - in.offsets[s];
  const float* dtail = end_entry(in, g.dtail, s);
  float* dleft = start_entry(in, g.dleft, s);
  if (!dleft) return;
  for (int64_t k = 0; k < past; k++) {
    Vec sum = zero();
    for (int64_t i = 0; i <= k; i++) sum = fma(load(w.taps + (k - i) * L), load(w.v + i * L), sum);
    if (dtail && k >= length) sum = sum + load(dtail + (k - length) * in.channels + e, lanes);
    store(dleft + k * in.channels + e, sum, lanes);
  }
}

/// v becomes dv over `count` tokens from t, 0 from there to `reach`. Sums the first `own` of them into dbias.
template <class DU>
void activation_gradient(const ConvBackwardArgs& g, const Tile& w, int64_t e, int64_t lanes, int64_t t,
                         int64_t count, int64_t reach, int64_t own, Vec& dbias) {
  Vec sum = zero();
  for (int64_t i = 0; i < count; i++) {
    Vec v = load(w.v + i * L), du = load(row<DU>(g.du, (t + i) * g.du_stride + e), lanes);
    Logistic f = logistic_of(v, exp_minus_abs(v));
    Vec dv = du * (f.value * fma(v, f.complement, set1(1.0f)));
    store(w.v + i * L, dv);
    if (i < own) sum = sum + dv;
  }
  for (int64_t i = count; i < reach; i++) store(w.v + i * L, zero());
  dbias = dbias + sum;
}

template <class A, class DU>
void backward(const ConvBackwardArgs& g, const ConvTask& task, float* partial) {
  const ConvInputs& in = g.in;
  const int64_t past = in.width - 1;
  const Tile w = carve(task.scratch, in.width);
  for (int64_t e = task.e0; e < task.e1; e += L) {
    const int64_t lanes = min_i(L, task.e1 - e);
    const Vec bias = in.bias ? load(in.bias + e, lanes) : zero();
    Vec dbias = zero();
    load_taps(in, e, lanes, w.taps);
    for (int64_t j = 0; j < in.width; j++) store(w.dtaps + j * L, zero());
    for (int64_t t = task.t0, end; t < task.t1; t = end) {
      const int64_t s = in.segment_of[t];
      end = min_i(min_i(task.t1, in.offsets[s + 1]), t + kConvTile);
      // dx of the run's last tokens needs dv of the W - 1 tokens after it: computed here once more.
      const int64_t own = end - t, count = min_i(in.offsets[s + 1], end + past) - t;
      stage<A>(in, e, lanes, s, t, count, w.x);
      convolve_any(w, in.width, bias, count);
      activation_gradient<DU>(g, w, e, lanes, t, count, own + past, own, dbias);
      (in.width == 4 ? tap_gradients<4> : tap_gradients<0>)(w, in.width, own);
      input_gradient<A>(g, w, e, lanes, s, t, own);
      if (t == in.offsets[s]) left_gradient(g, w, e, lanes, s);
    }
    for (int64_t j = 0; j < in.width; j++) store(partial + j * in.channels + e, load(w.dtaps + j * L), lanes);
    store(partial + in.width * in.channels + e, dbias, lanes);
  }
}

}  // namespace

extern const ConvKernels conv_kernels;
const ConvKernels conv_kernels{.scratch = scratch_floats,
                               .forward_f32 = forward<float>,
                               .forward_bf16 = forward<bf16>,
                               .backward_f32 = backward<float, float>,
                               .backward_bf16 = backward<bf16, bf16>,
                               .backward_bf16_du_f32 = backward<bf16, float>};

}  // namespace jambalaya::JAMBALAYA_NS
