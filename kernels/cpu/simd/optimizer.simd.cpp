#include "kernels/cpu/simd/optimizer.h"

#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {
namespace {

// Sixteen double sums, element i in sum i mod 16, on every instruction set: gradient norms have the same bits
// on all of them. The square of an fp32 number is exact in double and cannot overflow.
#if defined(__AVX512F__)
struct Sums {
  __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
  void add(Vec x) {
    __m512d l = _mm512_cvtps_pd(_mm512_castps512_ps256(x.v)),
            h = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x.v, 1));
    low = _mm512_fmadd_pd(l, l, low);
    high = _mm512_fmadd_pd(h, h, high);
  }
  void spill(double* out) const {
    _mm512_storeu_pd(out, low);
    _mm512_storeu_pd(out + 8, high);
  }
};
constexpr int kVecs = 1;  // vectors to sixteen elements
#else
struct Sums {
  __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
  void add(Vec x) {
    __m256d l = _mm256_cvtps_pd(_mm256_castps256_ps128(x.v)),
            h = _mm256_cvtps_pd(_mm256_extractf128_ps(x.v, 1));
    low = _mm256_fmadd_pd(l, l, low);
    high = _mm256_fmadd_pd(h, h, high);
  }
  void spill(double* out) const {
    _mm256_storeu_pd(out, low);
    _mm256_storeu_pd(out + 4, high);
  }
};
constexpr int kVecs = 2;
#endif

template <class T>
void sum_squares(const SumSquaresArgs& a) {
  Sums sums[kVecs];
  Vec largest[kVecs];
  for (Vec& v : largest) v = zero();
  for (int64_t r = 0; r < a.rows; r++) {
    const T* x = static_cast<const T*>(a.x) + r * a.x_stride;
    int64_t i = 0;
    for (; i + kVecs * kLanes <= a.columns; i += kVecs * kLanes) {
      for (int j = 0; j < kVecs; j++) {
        Vec v = load(x + i + j * kLanes);
        sums[j].add(v);
        largest[j] = max(largest[j], abs(v));
      }
    }
    for (int j = 0; j < kVecs && i < a.columns; j++, i += kLanes) {
      Vec v = load(x + i, a.columns - i);
      sums[j].add(v);
      largest[j] = max(largest[j], abs(v));
    }
  }
  double lanes[16], total = 0;
  for (int j = 0; j < kVecs; j++) sums[j].spill(lanes + j * kLanes);
  for (double lane : lanes) total += lane;
  Vec top = largest[0];
  for (int j = 1; j < kVecs; j++) top = max(top, largest[j]);
  *a.sum = total;
  // Vector maxima drop a NaN that a later element overwrites; the sum of squares never does.
  *a.largest = total == total ? double(maximum(top)) : total;
}

JAMBALAYA_INLINE void adamw_step(const AdamWArgs& a, int64_t i, int64_t n) {
  Vec g = load(a.grad + i, n) * set1(a.grad_scale), p = load(a.param + i, n);
  Vec m = fma(set1(a.one_minus_beta1), g, set1(a.beta1) * load(a.m + i, n));
  Vec v = fma(set1(a.one_minus_beta2) * g, g, set1(a.beta2) * load(a.v + i, n));
  Vec step = m * set1(a.correction1) / (sqrt(v * set1(a.correction2)) + set1(a.eps));
  // The decay is added to the step, not multiplied into p: 1 - lr decay would round away most of lr decay's
  // bits.
  p = fnma(set1(a.lr), fma(set1(a.decay), p, step), p);
  store(a.m + i, m, n);
  store(a.v + i, v, n);
  store(a.param + i, p, n);
  if (a.compute) store(a.compute + i, p, n);
}

void adamw(const AdamWArgs& a) {
  int64_t i = 0;
  for (; i + kLanes <= a.n; i += kLanes) adamw_step(a, i, kLanes);
  if (i < a.n) adamw_step(a, i, a.n - i);
}

void refresh(const RefreshArgs& a) {
  for (int64_t i = 0; i < a.n; i += kLanes) store(a.compute + i, load(a.param + i, a.n - i), a.n - i);
}

}  // namespace

extern const OptimizerKernels optimizer_kernels;
const OptimizerKernels optimizer_kernels{{sum_squares<float>, sum_squares<bf16>}, adamw, refresh};

}  // namespace jambalaya::JAMBALAYA_NS
