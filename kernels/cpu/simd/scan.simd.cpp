// Selective scan, forward: states in registers, channels across lanes.
#include "kernels/cpu/simd/scan.h"

#include "kernels/cpu/simd/scan_math.h"

namespace jambalaya::JAMBALAYA_NS {

extern const ScanBackwardKernels scan_backward_kernels;
extern const ScanCarryKernels scan_carry_kernels;

namespace {

/// A task's scratch, carved once.
struct Forward {
  float *rates, *h;          // [blocks][padded N][L]
  float *b, *c;              // [kScanTile][padded N]
  float *delta, *drive, *y;  // [kScanTile][L]: delta, delta u, output before the gate
};

int64_t forward_scratch(int64_t channels, int64_t states) {
  int64_t padded = padded_states(states);
  return 2 * blocks_of(channels) * padded * L + 2 * kScanTile * padded + 3 * kScanTile * L;
}

Forward carve(float* p, int64_t channels, int64_t states) {
  int64_t padded = padded_states(states), block = blocks_of(channels) * padded * L;
  Forward w;
  w.delta = p;
  w.drive = w.delta + kScanTile * L;
  w.y = w.drive + kScanTile * L;
  w.rates = w.y + kScanTile * L;
  w.h = w.rates + block;
  w.b = w.h + block;
  w.c = w.b + kScanTile * padded;
  return w;
}

struct Range {
  Vec low, high;
};

/// delta, delta u and D u of `count` tokens from t. Rows lie a whole matrix row apart, too far for the
/// processor's own prefetching, so the next tile's are asked for here.
template <class A>
void prepare(const ScanForwardArgs& g, int64_t e, int64_t lanes, int64_t t, int64_t count, int64_t last,
             const Forward& w, Range& range) {
  const ScanInputs& in = g.in;
  Vec bias = load(in.dt_bias + e, lanes), skip = load(in.d + e, lanes);
  Vec low = range.low, high = range.high;
  for (int64_t i = 0; i < count; i++) {
    const int64_t ahead = min_i(t + i + kScanTile, last);
    __builtin_prefetch(row<A>(in.u, ahead * in.u_stride + e), 0, 2);
    __builtin_prefetch(row<A>(in.s, ahead * in.s_stride + e), 0, 2);
    if (in.z) __builtin_prefetch(row<A>(in.z, ahead * in.z_stride + e), 0, 2);
    __builtin_prefetch(row<A>(g.o, (t + i) * g.o_stride + e), 1, 2);
    Vec u = load(row<A>(in.u, (t + i) * in.u_stride + e), lanes);
    Vec x = load(row<A>(in.s, (t + i) * in.s_stride + e), lanes) + bias;
    Vec delta = softplus_of(x, exp_minus_abs(x));
    low = min(low, delta);
    high = max(high, delta);
    store(w.delta + i * L, delta);
    store(w.drive + i * L, delta * u);
    store(w.y + i * L, skip * u);
  }
  range.low = select(first(lanes), low, range.low);
  range.high = select(first(lanes), high, range.high);
}

/// h = a h + (delta u) B, y += C h, for kStates states of one block of channels over `count` tokens.
template <int kStates>
void advance(const Forward& w, const float* rates, float* h, int64_t n, int64_t padded, int64_t count) {
  Vec state[kStates];
#pragma GCC unroll 16
  for (int k = 0; k < kStates; k++) state[k] = load(h + (n + k) * L);
  const float *b = w.b + n, *c = w.c + n;
  rates += n * L;
  for (int64_t i = 0; i < count; i++, b += padded, c += padded) {
    Vec delta = load(w.delta + i * L), drive = load(w.drive + i * L);
    Vec y[2] = {load(w.y + i * L), zero()};  // two chains of additions
#pragma GCC unroll 16
    for (int k = 0; k < kStates; k++) {
      Vec a = decay(delta * load(rates + k * L));
      state[k] = fma(a, state[k], drive * set1(b[k]));
      y[k % 2] = fma(state[k], set1(c[k]), y[k % 2]);
    }
    store(w.y + i * L, y[0] + y[1]);
  }
#pragma GCC unroll 16
  for (int k = 0; k < kStates; k++) store(h + (n + k) * L, state[k]);
}

/// o = y SiLU(z).
template <class A>
void gate(const ScanForwardArgs& g, int64_t e, int64_t lanes, int64_t t, int64_t count, const float* y) {
  for (int64_t i = 0; i < count; i++) {
    Vec out = load(y + i * L);
    if (g.in.z) {
      Vec z = load(row<A>(g.in.z, (t + i) * g.in.z_stride + e), lanes);
      out = out * (z * logistic_of(z, exp_minus_abs(z)).value);
    }
    store(row<A>(g.o, (t + i) * g.o_stride + e), out, lanes);
  }
}

template <class A>
void forward(const ScanForwardArgs& g, const ScanTask& task) {
  const ScanInputs& in = g.in;
  const int64_t padded = padded_states(in.states), state_size = in.states * in.channels;
  const Forward w = carve(task.scratch, task.e1 - task.e0, in.states);
  for (int64_t e = task.e0, k = 0; e < task.e1; e += L, k++)
    load_decay_rates(in, e, min_i(L, task.e1 - e), w.rates + k * padded * L);
  Range range{set1(3.0e38f), zero()};

  for (int64_t t = task.t0, end; t < task.t1; t = end) {
    const int64_t s = in.segment_of[t];
    end = min_i(in.offsets[s + 1], (t / kScanTile + 1) * kScanTile);
    stage_rows(in.b, in.b_stride, t, end - t, in.states, w.b);
    stage_rows(in.c, in.c_stride, t, end - t, in.states, w.c);
    for (int64_t e = task.e0, k = 0; e < task.e1; e += L, k++) {
      const int64_t lanes = min_i(L, task.e1 - e);
      float *h = w.h + k * padded * L, *rates = w.rates + k * padded * L;
      if (t == in.offsets[s]) load_states(start_state(in, in.h0, s), in, e, lanes, h);
      if (g.kept_states && t % kScanTile == 0)
        store_states(g.kept_states + t / kScanTile * state_size, in, e, lanes, h);
      prepare<A>(g, e, lanes, t, end - t, task.t1 - 1, w, range);
      int64_t n = 0;
      for (; n + L <= padded; n += L) advance<L>(w, rates, h, n, padded, end - t);
      if (n < padded) advance<kStateBlock>(w, rates, h, n, padded, end - t);
      gate<A>(g, e, lanes, t, end - t, w.y);
      if (end == in.offsets[s + 1])
        if (float* last = end_state(in, g.h_last, s)) store_states(last, in, e, lanes, h);
    }
  }
  if (g.delta_range) {
    g.delta_range[0] = -maximum(zero() - range.low);
    g.delta_range[1] = maximum(range.high);
  }
}

}  // namespace

extern const ScanKernels scan_kernels;
const ScanKernels scan_kernels{.forward_scratch = forward_scratch,
                               .forward_f32 = forward<float>,
                               .forward_bf16 = forward<bf16>,
                               .backward = &scan_backward_kernels,
                               .carry = &scan_carry_kernels};

}  // namespace jambalaya::JAMBALAYA_NS
