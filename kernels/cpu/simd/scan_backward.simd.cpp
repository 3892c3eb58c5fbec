// Selective scan, backward. Tiles of kScanTile tokens are walked last to first; in each the states are
// computed again from the kept state that enters the tile, then the adjoint state g runs backwards:
//   g[t] = dy[t] C[t] + a[t+1] g[t+1];  dC[t] = sum over channels of dy h[t];  dB[t] = sum over channels of g
//   delta u; m = g a[t] h[t-1];  d delta = sum_n m A + u sum_n g B;  du = D dy + delta sum_n g B;  dA = sum_t
//   m delta.
#include "kernels/cpu/simd/scan.h"

#include "kernels/cpu/simd/scan_math.h"

namespace jambalaya::JAMBALAYA_NS {

extern const ScanBackwardKernels scan_backward_kernels;

namespace {

// ---- scratch ----

/// In a tile where every token starts a segment each token has a start state beside its own.
constexpr int64_t kSlots = 2 * kScanTile;

struct Backward {
  float *rates, *carry, *drates;  // [blocks][padded N][L]: A log2 e, a g of the token after, dA
  float *dskip, *dbias;           // [blocks][L]
  float *b, *c;                   // [kScanTile][padded N]
  float *delta, *dsoftplus, *drive, *dy, *y, *gb, *ma;  // [kScanTile][L]
  float *h, *decays;                                    // [kSlots], [kScanTile] of [kStateBlock][L]
};

/// Hands out the arrays of Backward from `p` (null: only counts); returns the floats used.
int64_t carve(float* p, int64_t channels, int64_t states, Backward& w) {
  int64_t padded = padded_states(states), blocks = blocks_of(channels), used = 0;
  auto take = [&](float*& array, int64_t floats) {
    array = p ? p + used : nullptr;
    used += floats;
  };
  take(w.h, kSlots * kStateBlock * L);
  take(w.decays, kScanTile * kStateBlock * L);
  float** tiles[] = {&w.delta, &w.dsoftplus, &w.drive, &w.dy, &w.y, &w.gb, &w.ma};
  for (float** tile : tiles) take(*tile, kScanTile * L);
  take(w.carry, blocks * padded * L);  // carry to dbias are one run of memory: zeroed together
  take(w.drates, blocks * padded * L);
  take(w.dskip, blocks * L);
  take(w.dbias, blocks * L);
  take(w.rates, blocks * padded * L);
  take(w.b, kScanTile * padded);
  take(w.c, kScanTile * padded);
  return used;
}

int64_t scratch_floats(int64_t channels, int64_t states) {
  Backward w;
  return carve(nullptr, channels, states, w);
}

int64_t partial_width(int64_t states) { return 2 * padded_states(states); }

void begin(const ScanBackwardArgs& g, const ScanTask& task) {
  Backward w;
  carve(task.scratch, task.e1 - task.e0, g.in.states, w);
  for (float* p = w.carry; p < w.rates; p += L) store(p, zero());
  const int64_t padded = padded_states(g.in.states);
  for (int64_t e = task.e0, k = 0; e < task.e1; e += L, k++)
    load_decay_rates(g.in, e, min_i(L, task.e1 - e), w.rates + k * padded * L);
}

// ---- sums across lanes ----

// fold8 .. fold1 add the lanes of two vectors that lie 8, 4, 2 or 1 apart and put both results into one
// vector. Folding kLanes vectors down a tree gives one vector with the sum of each: 15 additions instead of
// 64.

#if defined(__AVX512F__)
JAMBALAYA_INLINE Vec fold8(Vec x, Vec y) {
  return {_mm512_add_ps(_mm512_shuffle_f32x4(x.v, y.v, 0x44), _mm512_shuffle_f32x4(x.v, y.v, 0xee))};
}
JAMBALAYA_INLINE Vec fold4(Vec x, Vec y) {
  return {_mm512_add_ps(_mm512_shuffle_f32x4(x.v, y.v, 0x88), _mm512_shuffle_f32x4(x.v, y.v, 0xdd))};
}
JAMBALAYA_INLINE Vec fold2(Vec x, Vec y) {
  return {_mm512_add_ps(_mm512_shuffle_ps(x.v, y.v, 0x44), _mm512_shuffle_ps(x.v, y.v, 0xee))};
}
JAMBALAYA_INLINE Vec fold1(Vec x, Vec y) {
  return {_mm512_add_ps(_mm512_shuffle_ps(x.v, y.v, 0x88), _mm512_shuffle_ps(x.v, y.v, 0xdd))};
}
#else
JAMBALAYA_INLINE Vec fold4(Vec x, Vec y) {
  return {_mm256_add_ps(_mm256_permute2f128_ps(x.v, y.v, 0x20), _mm256_permute2f128_ps(x.v, y.v, 0x31))};
}
JAMBALAYA_INLINE Vec fold2(Vec x, Vec y) {
  return {_mm256_add_ps(_mm256_shuffle_ps(x.v, y.v, 0x44), _mm256_shuffle_ps(x.v, y.v, 0xee))};
}
JAMBALAYA_INLINE Vec fold1(Vec x, Vec y) {
  return {_mm256_add_ps(_mm256_shuffle_ps(x.v, y.v, 0x88), _mm256_shuffle_ps(x.v, y.v, 0xdd))};
}
#endif

// ---- one tile of one block of channels ----

template <class A>
void prepare(const ScanBackwardArgs& g, int64_t e, int64_t lanes, int64_t t, int64_t count,
             const Backward& w) {
  const ScanInputs& in = g.in;
  Vec bias = load(in.dt_bias + e, lanes), skip = load(in.d + e, lanes);
  for (int64_t i = 0; i < count; i++) {
    Vec u = load(row<A>(in.u, (t + i) * in.u_stride + e), lanes);
    Vec x = load(row<A>(in.s, (t + i) * in.s_stride + e), lanes) + bias;
    Vec dy = load(row<A>(g.d_out, (t + i) * g.d_out_stride + e), lanes);
    Vec small = exp_minus_abs(x), delta = softplus_of(x, small);
    store(w.delta + i * L, delta);
    store(w.dsoftplus + i * L, logistic_of(x, small).value);
    store(w.drive + i * L, delta * u);
    store(w.y + i * L, skip * u);
    if (in.z) {
      Vec z = load(row<A>(in.z, (t + i) * in.z_stride + e), lanes);
      dy = dy * (z * logistic_of(z, exp_minus_abs(z)).value);
    }
    store(w.dy + i * L, dy);
    store(w.gb + i * L, zero());
    store(w.ma + i * L, zero());
  }
}

/// Forward again over tokens [i0, i1) of the tile for states [n, n + kStateBlock): keeps the decays and, in
/// the slots after `h` (which holds the start state), every state; adds C h to y.
void recompute(const Backward& w, const float* rates, float* h, int64_t n, int64_t padded, int64_t i0,
               int64_t i1) {
  Vec state[kStateBlock];
#pragma GCC unroll 8
  for (int k = 0; k < kStateBlock; k++) state[k] = load(h + k * L);
  rates += n * L;
  for (int64_t i = i0; i < i1; i++) {
    h += kStateBlock * L;
    float* decays = w.decays + i * kStateBlock * L;
    const float *b = w.b + i * padded + n, *c = w.c + i * padded + n;
    Vec delta = load(w.delta + i * L), drive = load(w.drive + i * L);
    Vec y[2] = {load(w.y + i * L), zero()};
#pragma GCC unroll 8
    for (int k = 0; k < kStateBlock; k++) {
      Vec a = decay(delta * load(rates + k * L));
      state[k] = fma(a, state[k], drive * set1(b[k]));
      y[k % 2] = fma(state[k], set1(c[k]), y[k % 2]);
      store(decays + k * L, a);
      store(h + k * L, state[k]);
    }
    store(w.y + i * L, y[0] + y[1]);
  }
}

/// The adjoint over tokens [i0, i1) of the tile, last to first; h as in recompute. partial points at the
/// tile's first token, lanes [dB of the block's states, dC of the same].
template <bool kAdd>
void adjoint(const Backward& w, const float* rates, float* carry, float* drates, const float* h, int64_t n,
             int64_t padded, int64_t i0, int64_t i1, float* partial) {
  Vec ag[kStateBlock], da[kStateBlock];
#pragma GCC unroll 8
  for (int k = 0; k < kStateBlock; k++) ag[k] = load(carry + (n + k) * L), da[k] = zero();
  rates += n * L;
  for (int64_t i = i1 - 1; i >= i0; i--) {
    const float* before = h + (i - i0) * kStateBlock * L;
    const float* after = before + kStateBlock * L;
    const float* decays = w.decays + i * kStateBlock * L;
    const float *b = w.b + i * padded + n, *c = w.c + i * padded + n;
    const Vec delta = load(w.delta + i * L), drive = load(w.drive + i * L), dy = load(w.dy + i * L);
    Vec gb = load(w.gb + i * L), ma = load(w.ma + i * L);
    struct Terms {
      Vec db, dc;
    };
    auto state = [&](int k) __attribute__((always_inline))->Terms {
      Vec gradient = fma(dy, set1(c[k]), ag[k]);
      gb = fma(gradient, set1(b[k]), gb);
      ag[k] = gradient * load(decays + k * L);
      Vec m = ag[k] * load(before + k * L);
      ma = fma(m, load(rates + k * L), ma);
      da[k] = fma(m, delta, da[k]);
      return {gradient * drive, dy * load(after + k * L)};
    };
    auto quarter = [&](int k) __attribute__((always_inline)) {
      Terms one = state(k);
#if defined(__AVX512F__)
      Terms two = state(k + 4);
      return fold4(fold8(one.db, two.db), fold8(one.dc, two.dc));
#else
      return fold4(one.db, one.dc);
#endif
    };
    Vec q0 = quarter(0), q1 = quarter(1), low = fold2(q0, q1);
    Vec q2 = quarter(2), q3 = quarter(3), sums = fold1(low, fold2(q2, q3));
    float* out = partial + (i * padded + n) * 2;
    store(out, kAdd ? load(out) + sums : sums);
    store(w.gb + i * L, gb);
    store(w.ma + i * L, ma);
  }
#pragma GCC unroll 8
  for (int k = 0; k < kStateBlock; k++) {
    store(carry + (n + k) * L, ag[k]);
    store(drates + (n + k) * L, load(drates + (n + k) * L) + da[k]);
  }
}

template <class A, class DU>
void finish(const ScanBackwardArgs& g, int64_t e, int64_t lanes, int64_t t, int64_t count, const Backward& w,
            float* dskip_sum, float* dbias_sum) {
  const ScanInputs& in = g.in;
  Vec skip = load(in.d + e, lanes), dskip = zero(), dbias = zero();
  for (int64_t i = 0; i < count; i++) {
    Vec u = load(row<A>(in.u, (t + i) * in.u_stride + e), lanes);
    Vec dy = load(w.dy + i * L), gb = load(w.gb + i * L);
    store(row<DU>(g.du, (t + i) * g.du_stride + e), fma(load(w.delta + i * L), gb, skip * dy), lanes);
    Vec ds = fma(load(w.ma + i * L), set1(kLn2), u * gb) * load(w.dsoftplus + i * L);
    store(row<A>(g.ds, (t + i) * g.ds_stride + e), ds, lanes);
    dskip = fma(dy, u, dskip);
    dbias = dbias + ds;
    if (in.z) {
      Vec z = load(row<A>(in.z, (t + i) * in.z_stride + e), lanes);
      Vec d_out = load(row<A>(g.d_out, (t + i) * g.d_out_stride + e), lanes);
      Logistic gate = logistic_of(z, exp_minus_abs(z));
      Vec slope = gate.value * fma(z, gate.complement, set1(1.0f));
      store(row<A>(g.dz, (t + i) * g.dz_stride + e), d_out * load(w.y + i * L) * slope, lanes);
    }
  }
  store(dskip_sum, load(dskip_sum) + dskip);
  store(dbias_sum, load(dbias_sum) + dbias);
}

/// A null source is zero.
void load_block(const float* from, const ScanInputs& in, int64_t e, int64_t lanes, int64_t n, float* to) {
  for (int64_t k = 0; k < kStateBlock; k++)
    store(to + k * L, from && n + k < in.states ? load(from + (n + k) * in.channels + e, lanes) : zero());
}

/// States [n, n + kStateBlock) of tokens [t, end) of one tile: forward again, then the adjoint, run by run
/// (a run is the part of a segment inside the tile).
void walk_states(const ScanBackwardArgs& g, const Backward& w, int64_t e, int64_t lanes, int64_t k, int64_t n,
                 int64_t t, int64_t end, float* partial) {
  const ScanInputs& in = g.in;
  const int64_t padded = padded_states(in.states), state_size = in.states * in.channels;
  const float* rates = w.rates + k * padded * L;
  float *carry = w.carry + k * padded * L, *drates = w.drates + k * padded * L;
  int64_t runs = 0;
  for (int64_t a = t, b; a < end; a = b, runs++) {
    const int64_t s = in.segment_of[a];
    b = min_i(in.offsets[s + 1], end);
    float* h = w.h + (a - t + runs) * kStateBlock * L;
    const float* start = a == t ? g.kept_states + t / kScanTile * state_size : start_state(in, in.h0, s);
    load_block(start, in, e, lanes, n, h);
    recompute(w, rates, h, n, padded, a - t, b - t);
  }
  for (int64_t b = end, a; b > t; b = a) {
    const int64_t s = in.segment_of[b - 1];
    a = max_i(in.offsets[s], t);
    runs--;
    const float* h = w.h + (a - t + runs) * kStateBlock * L;
    if (b == in.offsets[s + 1]) load_block(end_state(in, g.dh_last, s), in, e, lanes, n, carry + n * L);
    (k ? adjoint<true> : adjoint<false>)(w, rates, carry, drates, h, n, padded, a - t, b - t, partial);
    float* dh0 = a == in.offsets[s] ? start_state(in, g.dh0, s) : nullptr;
    for (int64_t j = 0; dh0 && j < min_i(kStateBlock, in.states - n); j++)
      store(dh0 + (n + j) * in.channels + e, load(carry + (n + j) * L), lanes);
  }
}

template <class A, class DU>
void backward(const ScanBackwardArgs& g, const ScanTask& task, float* partial) {
  const ScanInputs& in = g.in;
  const int64_t padded = padded_states(in.states);
  Backward w;
  carve(task.scratch, task.e1 - task.e0, in.states, w);
  for (int64_t end = task.t1, t; end > task.t0; end = t) {
    t = (end - 1) / kScanTile * kScanTile;
    stage_rows(in.b, in.b_stride, t, end - t, in.states, w.b);
    stage_rows(in.c, in.c_stride, t, end - t, in.states, w.c);
    for (int64_t e = task.e0, k = 0; e < task.e1; e += L, k++) {
      const int64_t lanes = min_i(L, task.e1 - e);
      prepare<A>(g, e, lanes, t, end - t, w);
      for (int64_t n = 0; n < padded; n += kStateBlock)
        walk_states(g, w, e, lanes, k, n, t, end, partial + (t - task.t0) * 2 * padded);
      finish<A, DU>(g, e, lanes, t, end - t, w, w.dskip + k * L, w.dbias + k * L);
    }
  }
}

// ---- sums over channels and tokens ----

void end(const ScanBackwardArgs& g, const ScanTask& task) {
  const ScanInputs& in = g.in;
  const int64_t padded = padded_states(in.states);
  Backward w;
  carve(task.scratch, task.e1 - task.e0, in.states, w);
  for (int64_t e = task.e0, k = 0; e < task.e1; e += L, k++) {
    const int64_t lanes = min_i(L, task.e1 - e);
    store(g.dd + e, load(g.dd + e, lanes) + load(w.dskip + k * L), lanes);
    store(g.ddt_bias + e, load(g.ddt_bias + e, lanes) + load(w.dbias + k * L), lanes);
    for (int64_t i = 0; i < lanes; i++)
      for (int64_t n = 0; n < in.states; n++) {
        int64_t at = (k * padded + n) * L + i;  // dA_log = dA A, since A = -exp(A_log)
        g.da_log[(e + i) * in.states + n] += w.drates[at] * (w.rates[at] * kLn2);
      }
  }
}

void sum_partials(const float* partial, int64_t groups, int64_t group_stride, int64_t tokens, int64_t states,
                  float* db, int64_t db_stride, float* dc, int64_t dc_stride) {
  const int64_t padded = padded_states(states);
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t n = 0; n < states; n += kStateBlock) {
      alignas(64) float sums[L];
      Vec sum = zero();
      for (int64_t k = 0; k < groups; k++)
        sum = sum + load(partial + k * group_stride + (t * padded + n) * 2);
      store(sums, sum);
      for (int64_t j = 0; j < min_i(kStateBlock, states - n); j++) {
        db[t * db_stride + n + j] = sums[j];
        dc[t * dc_stride + n + j] = sums[kStateBlock + j];
      }
    }
}

}  // namespace

const ScanBackwardKernels scan_backward_kernels{.scratch = scratch_floats,
                                                .partial_width = partial_width,
                                                .begin = begin,
                                                .f32 = backward<float, float>,
                                                .bf16_all = backward<bf16, bf16>,
                                                .bf16_du_f32 = backward<bf16, float>,
                                                .end = end,
                                                .sum_partials = sum_partials};

}  // namespace jambalaya::JAMBALAYA_NS
