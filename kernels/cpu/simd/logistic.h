// The logistic function and its complement, and addresses of activations: shared by the rooms scan and conv.
// Included only by *.simd.cpp files.
#pragma once
#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {
namespace {

constexpr int64_t L = kLanes;
constexpr float kLog2e = 1.44269504f;

/// Element i of an array of activations A.
template <class A>
JAMBALAYA_INLINE const A* row(const void* p, int64_t i) {
  return static_cast<const A*>(p) + i;
}
template <class A>
JAMBALAYA_INLINE A* row(void* p, int64_t i) {
  return static_cast<A*>(p) + i;
}

/// e^x for x <= 0, relative error about 1e-7 (two-part reduction: exact also where x is large); NaN stays
/// NaN.
JAMBALAYA_INLINE Vec exp_negative(Vec x) {
  x = max(set1(-87.0f), x);
  Vec n = round(x * set1(kLog2e));
  Vec r = fnma(n, set1(0.693359375f), x);
  r = fnma(n, set1(-2.12194440e-4f), r);
  Vec p = set1(1.3981999507e-3f);
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r) + set1(1.0f);
#if defined(__AVX512F__)
  return scale2(p, n);
#else
  return p * pow2(n);
#endif
}

struct Logistic {
  Vec value, complement;  // sigmoid(x) and 1 - sigmoid(x), neither by subtraction
};
JAMBALAYA_INLINE Logistic logistic_of(Vec x, Vec w) {
  Vec large = set1(1.0f) / (set1(1.0f) + w), small = w * large;
  Mask negative = less(x, zero());
  return {select(negative, small, large), select(negative, large, small)};
}
JAMBALAYA_INLINE Vec exp_minus_abs(Vec x) { return exp_negative(zero() - abs(x)); }

}  // namespace
}  // namespace jambalaya::JAMBALAYA_NS
