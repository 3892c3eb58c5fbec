// RMSNorm: rows of any length, statistics in fp32.
#include "kernels/cpu/simd/norm.h"

#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {
namespace {

constexpr int64_t L = kLanes;

template <class A>
JAMBALAYA_INLINE const A* row(const void* p, int64_t r, int64_t stride) {
  return static_cast<const A*>(p) + r * stride;
}
template <class A>
JAMBALAYA_INLINE A* row(void* p, int64_t r, int64_t stride) {
  return static_cast<A*>(p) + r * stride;
}

/// f(column, lanes, k) over a row in vectors; k runs through 0..3, for sums in four independent chains.
template <class F>
JAMBALAYA_INLINE void over_row(int64_t columns, F&& f) {
  int64_t i = 0;
  for (; i + 4 * L <= columns; i += 4 * L) {
    f(i, L, 0);
    f(i + L, L, 1);
    f(i + 2 * L, L, 2);
    f(i + 3 * L, L, 3);
  }
  for (int k = 0; i < columns; i += L, k++) f(i, min_i(L, columns - i), k);
}

JAMBALAYA_INLINE float sum_of(const Vec (&s)[4]) { return sum((s[0] + s[1]) + (s[2] + s[3])); }

JAMBALAYA_INLINE float reciprocal_root(float x) { return 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

template <class H, class B, class Y>
void forward(const NormForwardArgs& g, int64_t r0, int64_t r1) {
  for (int64_t r = r0; r < r1; r++) {
    const H* h = row<H>(g.h, r, g.h_stride);
    Vec squares[4] = {zero(), zero(), zero(), zero()};
    if (g.branch) {
      const B* branch = row<B>(g.branch, r, g.branch_stride);
      H* out = row<H>(g.h_out, r, g.h_out_stride);
      over_row(
          g.columns, [&](int64_t i, int64_t n, int k) __attribute__((always_inline)) {
            store(out + i, load(h + i, n) + load(branch + i, n), n);
            Vec x = load(out + i, n);  // the sum as stored: what the backward will read
            squares[k] = fma(x, x, squares[k]);
          });
      h = out;
    } else {
      over_row(
          g.columns, [&](int64_t i, int64_t n, int k) __attribute__((always_inline)) {
            Vec x = load(h + i, n);
            squares[k] = fma(x, x, squares[k]);
          });
    }
    const float rstd = reciprocal_root(sum_of(squares) / float(g.columns) + g.eps);
    g.rstd[r * g.rstd_stride] = rstd;
    Y* y = row<Y>(g.y, r, g.y_stride);
    const Vec scale = set1(rstd);
    over_row(
        g.columns, [&](int64_t i, int64_t n, int) __attribute__((always_inline)) {
          store(y + i, load(g.weight + i, n) * (load(h + i, n) * scale), n);
        });
  }
}

/// With q = weight dy and x^ = h rstd:  dh = rstd (q - x^ mean(q x^)),  dweight = sum over rows of dy x^.
template <class DY, class H, class DH>
void backward(const NormBackwardArgs& g, int64_t r0, int64_t r1, float* dweight) {
  for (int64_t i = 0; i < g.columns; i++) dweight[i] = 0;
  for (int64_t r = r0; r < r1; r++) {
    const DY* dy = row<DY>(g.dy, r, g.dy_stride);
    const H* h = row<H>(g.h, r, g.h_stride);
    DH* dh = row<DH>(g.dh, r, g.dh_stride);
    const float rstd = g.rstd[r * g.rstd_stride];
    const Vec scale = set1(rstd);
    Vec dots[4] = {zero(), zero(), zero(), zero()};
    over_row(
        g.columns, [&](int64_t i, int64_t n, int k) __attribute__((always_inline)) {
          Vec d = load(dy + i, n), normed = load(h + i, n) * scale, part = d * normed;
          dots[k] = fma(load(g.weight + i, n), part, dots[k]);
          store(dweight + i, load(dweight + i, n) + part, n);
        });
    const Vec mean = set1(sum_of(dots) / float(g.columns));
    over_row(
        g.columns, [&](int64_t i, int64_t n, int) __attribute__((always_inline)) {
          Vec q = load(g.weight + i, n) * load(dy + i, n), normed = load(h + i, n) * scale;
          Vec dx = scale * fnma(normed, mean, q);
          store(dh + i, g.accumulate ? load(dh + i, n) + dx : dx, n);
        });
  }
}

template <class X, class Y>
void copy(const void* x, int64_t x_stride, void* y, int64_t y_stride, int64_t columns, int64_t r0,
          int64_t r1) {
  for (int64_t r = r0; r < r1; r++)
    over_row(
        columns, [&](int64_t i, int64_t n, int) __attribute__((always_inline)) {
          store(row<Y>(y, r, y_stride) + i, load(row<X>(x, r, x_stride) + i, n), n);
        });
}

}  // namespace

extern const NormKernels norm_kernels;
const NormKernels norm_kernels{
    .forward = {{{forward<float, float, float>, forward<float, float, bf16>},
                 {forward<float, bf16, float>, forward<float, bf16, bf16>}},
                {{forward<bf16, float, float>, forward<bf16, float, bf16>},
                 {forward<bf16, bf16, float>, forward<bf16, bf16, bf16>}}},
    .backward = {{{backward<float, float, float>, backward<float, float, bf16>},
                  {backward<float, bf16, float>, backward<float, bf16, bf16>}},
                 {{backward<bf16, float, float>, backward<bf16, float, bf16>},
                  {backward<bf16, bf16, float>, backward<bf16, bf16, bf16>}}},
    .copy = {{copy<float, float>, copy<float, bf16>}, {copy<bf16, float>, copy<bf16, bf16>}}};

}  // namespace jambalaya::JAMBALAYA_NS
