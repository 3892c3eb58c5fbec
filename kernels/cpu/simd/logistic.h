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

/// e^-|x|, relative error 2e-7 + 1e-8 |x|, not below e^-87; NaN stays NaN.
JAMBALAYA_INLINE Vec exp_minus_abs(Vec x) {
  x = max(set1(-87.0f), zero() - abs(x));
  Vec n = round(x * set1(kLog2e));
  Vec p = exp2_reduced(
      fma(x, set1(kLog2e), zero() - n));  // fused: the reduced argument has no rounding of x log2(e)
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

}  // namespace
}  // namespace jambalaya::JAMBALAYA_NS
