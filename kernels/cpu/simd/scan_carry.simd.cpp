// What a shard of a longer stream does to a state that passes through it (menu: ScanCarryForward and
// ScanCarryBackward): the recurrences of the scan alone, without outputs. Their arithmetic is that of
// scan.simd.cpp and scan_backward.simd.cpp, operation by operation, so that a state from zero has the same
// bits here and there.
#include "kernels/cpu/simd/scan.h"

#include "kernels/cpu/simd/scan_math.h"

namespace jambalaya::JAMBALAYA_NS {

extern const ScanCarryKernels scan_carry_kernels;

namespace {

/// A task's scratch, carved once.
struct Carry {
  float *rates, *state;   // [blocks][padded N][L]
  float* total;           // [blocks][L]: sum of delta
  float* rows;            // [kScanTile][padded N]: of B or C
  float *delta, *driver;  // [kScanTile][L]: delta; delta u or dy
};

int64_t scratch_floats(int64_t channels, int64_t states) {
  int64_t padded = padded_states(states), blocks = blocks_of(channels);
  return 2 * blocks * padded * L + blocks * L + kScanTile * padded + 2 * kScanTile * L;
}

/// Carves the scratch and starts the states and sums at zero.
Carry begin(const ScanInputs& in, const ScanTask& task) {
  const int64_t padded = padded_states(in.states), blocks = blocks_of(task.e1 - task.e0);
  Carry w;
  w.delta = task.scratch;
  w.driver = w.delta + kScanTile * L;
  w.rates = w.driver + kScanTile * L;
  w.state = w.rates + blocks * padded * L;
  w.total = w.state + blocks * padded * L;
  w.rows = w.total + blocks * L;
  for (float* p = w.state; p < w.rows; p += L) store(p, zero());
  for (int64_t e = task.e0, k = 0; e < task.e1; e += L, k++)
    load_decay_rates(in, e, min_i(L, task.e1 - e), w.rates + k * padded * L);
  return w;
}

template <class A>
JAMBALAYA_INLINE Vec delta_at(const ScanInputs& in, Vec bias, int64_t e, int64_t lanes, int64_t t) {
  Vec x = load(row<A>(in.s, t * in.s_stride + e), lanes) + bias;
  return softplus_of(x, exp_minus_abs(x));
}

/// delta and delta u of `count` tokens from t; adds delta's sum to `total` tile by tile, which keeps the
/// rounding of long sums small. Prefetches the next tile (see scan.simd.cpp).
template <class A>
void prepare_forward(const ScanInputs& in, int64_t e, int64_t lanes, int64_t t, int64_t count, int64_t last,
                     const Carry& w, float* total) {
  const Vec bias = load(in.dt_bias + e, lanes);
  Vec sum = zero();
  for (int64_t i = 0; i < count; i++) {
    const int64_t ahead = min_i(t + i + kScanTile, last);
    __builtin_prefetch(row<A>(in.u, ahead * in.u_stride + e), 0, 2);
    __builtin_prefetch(row<A>(in.s, ahead * in.s_stride + e), 0, 2);
    Vec delta = delta_at<A>(in, bias, e, lanes, t + i);
    sum = sum + delta;
    store(w.delta + i * L, delta);
    store(w.driver + i * L, delta * load(row<A>(in.u, (t + i) * in.u_stride + e), lanes));
  }
  store(total, load(total) + sum);
}

/// delta and dy = d_out SiLU(z) of `count` tokens from t; tiles come last to first.
template <class A>
void prepare_backward(const ScanCarryBackwardArgs& g, int64_t e, int64_t lanes, int64_t t, int64_t count,
                      int64_t first, const Carry& w) {
  const ScanInputs& in = g.in;
  const Vec bias = load(in.dt_bias + e, lanes);
  for (int64_t i = 0; i < count; i++) {
    const int64_t ahead = max_i(t + i - kScanTile, first);
    __builtin_prefetch(row<A>(g.d_out, ahead * g.d_out_stride + e), 0, 2);
    __builtin_prefetch(row<A>(in.s, ahead * in.s_stride + e), 0, 2);
    if (in.z) __builtin_prefetch(row<A>(in.z, ahead * in.z_stride + e), 0, 2);
    Vec dy = load(row<A>(g.d_out, (t + i) * g.d_out_stride + e), lanes);
    if (in.z) {
      Vec z = load(row<A>(in.z, (t + i) * in.z_stride + e), lanes);
      dy = dy * (z * logistic_of(z, exp_minus_abs(z)).value);
    }
    store(w.delta + i * L, delta_at<A>(in, bias, e, lanes, t + i));
    store(w.driver + i * L, dy);
  }
}

/// kStates states of one block of channels over `count` tokens. Forward: h = a h + (delta u) B. Backward,
/// last token to first: g = a (g + dy C).
template <int kStates, bool kForward>
void walk(const Carry& w, const float* rates, float* state, int64_t n, int64_t padded, int64_t count) {
  Vec h[kStates];
#pragma GCC unroll 16
  for (int k = 0; k < kStates; k++) h[k] = load(state + (n + k) * L);
  rates += n * L;
  for (int64_t step = 0; step < count; step++) {
    const int64_t i = kForward ? step : count - 1 - step;
    const float* coefficients = w.rows + i * padded + n;
    const Vec delta = load(w.delta + i * L), driver = load(w.driver + i * L);
#pragma GCC unroll 16
    for (int k = 0; k < kStates; k++) {
      const Vec a = decay(delta * load(rates + k * L)), coefficient = set1(coefficients[k]);
      h[k] = kForward ? fma(a, h[k], driver * coefficient) : fma(driver, coefficient, h[k]) * a;
    }
  }
#pragma GCC unroll 16
  for (int k = 0; k < kStates; k++) store(state + (n + k) * L, h[k]);
}

template <bool kForward>
void walk_block(const Carry& w, int64_t k, int64_t padded, int64_t count) {
  const float* rates = w.rates + k * padded * L;
  float* state = w.state + k * padded * L;
  int64_t n = 0;
  for (; n + L <= padded; n += L) walk<L, kForward>(w, rates, state, n, padded, count);
  if (n < padded) walk<kStateBlock, kForward>(w, rates, state, n, padded, count);
}

template <class A>
void forward(const ScanCarryForwardArgs& g, const ScanTask& task) {
  const ScanInputs& in = g.in;
  const int64_t padded = padded_states(in.states);
  const Carry w = begin(in, task);
  for (int64_t t = task.t0, end; t < task.t1; t = end) {
    end = min_i(task.t1, t + kScanTile);
    stage_rows(in.b, in.b_stride, t, end - t, in.states, w.rows);
    for (int64_t e = task.e0, k = 0; e < task.e1; e += L, k++) {
      prepare_forward<A>(in, e, min_i(L, task.e1 - e), t, end - t, task.t1 - 1, w, w.total + k * L);
      walk_block<true>(w, k, padded, end - t);
    }
  }
  for (int64_t e = task.e0, k = 0; e < task.e1; e += L, k++) {
    const int64_t lanes = min_i(L, task.e1 - e);
    store_states(g.h_end, in, e, lanes, w.state + k * padded * L);
    for (int64_t n = 0; n < in.states; n++)
      store(g.decay + n * in.channels + e,
            exp2_fast(load(w.total + k * L) * load(w.rates + (k * padded + n) * L)), lanes);
  }
}

template <class A>
void backward(const ScanCarryBackwardArgs& g, const ScanTask& task) {
  const ScanInputs& in = g.in;
  const int64_t padded = padded_states(in.states);
  const Carry w = begin(in, task);
  for (int64_t end = task.t1, t; end > task.t0; end = t) {
    t = max_i(task.t0, end - kScanTile);
    stage_rows(in.c, in.c_stride, t, end - t, in.states, w.rows);
    for (int64_t e = task.e0, k = 0; e < task.e1; e += L, k++) {
      prepare_backward<A>(g, e, min_i(L, task.e1 - e), t, end - t, task.t0, w);
      walk_block<false>(w, k, padded, end - t);
    }
  }
  for (int64_t e = task.e0, k = 0; e < task.e1; e += L, k++)
    store_states(g.dh0, in, e, min_i(L, task.e1 - e), w.state + k * padded * L);
}

}  // namespace

const ScanCarryKernels scan_carry_kernels{.scratch = scratch_floats,
                                          .forward_f32 = forward<float>,
                                          .forward_bf16 = forward<bf16>,
                                          .backward_f32 = backward<float>,
                                          .backward_bf16 = backward<bf16>};

}  // namespace jambalaya::JAMBALAYA_NS
