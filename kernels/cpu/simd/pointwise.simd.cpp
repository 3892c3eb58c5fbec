#include "kernels/cpu/simd/pointwise.h"

#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {
namespace {

/// f(i, n) for every vector of `count` elements: n is a constant kLanes but for the last one.
template <class F>
JAMBALAYA_INLINE void each_vector(int64_t count, F&& f) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) f(i, int64_t(kLanes));
  if (i < count) f(i, count - i);
}

/// 1/d for d in [1, 2^120]: the CPU's estimate and one Newton step, relative error below 3e-7.
JAMBALAYA_INLINE Vec reciprocal(Vec d) {
#if defined(__AVX512F__)
  Vec r = wrap(_mm512_rcp14_ps(d.v));
#else
  Vec r = wrap(_mm256_rcp_ps(d.v));
#endif
  return r * fnma(d, r, set1(2));
}

/// The gate's sigmoid. bf16 keeps 8 bits, so there the shorter exponential and no division do: SwiGLU is
/// bound by arithmetic, not by memory.
JAMBALAYA_INLINE Vec gate_sigmoid(Vec g, const float*) { return sigmoid(g); }
JAMBALAYA_INLINE Vec gate_sigmoid(Vec g, const bf16*) {
  return reciprocal(set1(1) + exp2_fast(min(g * set1(-1.44269504f), set1(120))));
}

template <class T>
void swiglu_forward(const SwigluArgs& a) {
  for (int64_t r = 0; r < a.rows; r++) {
    const T* gate = static_cast<const T*>(a.gate_up) + r * a.gate_up_stride;
    const T* up = gate + a.width;
    T* h = static_cast<T*>(a.h) + r * a.h_stride;
    each_vector(
        a.width, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
          Vec g = load(gate + i, n);
          store(h + i, g * gate_sigmoid(g, gate) * load(up + i, n), n);
        });
  }
}

// d/dg (g s(g)) = s (1 + g (1 - s)) = s + (g s) (1 - s).
template <class T>
void swiglu_backward(const SwigluArgs& a) {
  for (int64_t r = 0; r < a.rows; r++) {
    const T* gate = static_cast<const T*>(a.gate_up) + r * a.gate_up_stride;
    const T* up = gate + a.width;
    const T* dh = static_cast<const T*>(a.dh) + r * a.dh_stride;
    T* dgate = static_cast<T*>(a.dgate_up) + r * a.dgate_up_stride;
    T* dup = dgate + a.width;
    each_vector(
        a.width, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
          Vec g = load(gate + i, n), u = load(up + i, n), d = load(dh + i, n);
          Vec s = gate_sigmoid(g, gate), silu = g * s;
          store(dgate + i, d * u * fma(silu, set1(1) - s, s), n);
          store(dup + i, d * silu, n);
        });
  }
}

template <class X, class Y>
void scale_copy(const ScaleCopyArgs& a) {
  Vec alpha = set1(a.alpha);
  for (int64_t r = 0; r < a.rows; r++) {
    const X* x = static_cast<const X*>(a.x) + r * a.x_stride;
    Y* y = static_cast<Y*>(a.y) + r * a.y_stride;
    each_vector(
        a.columns, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
          Vec scaled = alpha * load(x + i, n);
          store(y + i, a.accumulate ? load(y + i, n) + scaled : scaled, n);
        });
  }
}

template <class X, class B>
void add_bias(const BiasArgs& a) {
  const B* bias = static_cast<const B*>(a.bias);
  for (int64_t r = 0; r < a.rows; r++) {
    X* x = static_cast<X*>(a.x) + r * a.x_stride;
    each_vector(
        a.columns, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
          store(x + i, load(x + i, n) + load(bias + i, n), n);
        });
  }
}

/// Rows are read in the order of memory, four at a time; the sums of one strip of columns stay in the L1
/// cache.
template <class X>
void sum_over_rows(const BiasArgs& a) {
  float* out = static_cast<float*>(a.bias);
  for (int64_t i = 0; i < a.columns; i += kLanes) store(out + i, zero(), a.columns - i);
  constexpr int64_t kStrip = 4096;
  for (int64_t left = 0; left < a.columns; left += kStrip, out += kStrip) {
    const X* x = static_cast<const X*>(a.x) + left;
    const int64_t width = min_i(kStrip, a.columns - left), stride = a.x_stride;
    int64_t r = 0;
    for (; r + 4 <= a.rows; r += 4, x += 4 * stride) {
      each_vector(
          width, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
            Vec s = load(out + i, n) + load(x + i, n) + load(x + stride + i, n);
            store(out + i, s + load(x + 2 * stride + i, n) + load(x + 3 * stride + i, n), n);
          });
    }
    for (; r < a.rows; r++, x += stride) {
      each_vector(
          width, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
            store(out + i, load(out + i, n) + load(x + i, n), n);
          });
    }
  }
}

}  // namespace

extern const PointwiseKernels pointwise_kernels;
const PointwiseKernels pointwise_kernels{
    {swiglu_forward<float>, swiglu_forward<bf16>},
    {swiglu_backward<float>, swiglu_backward<bf16>},
    {{scale_copy<float, float>, scale_copy<float, bf16>}, {scale_copy<bf16, float>, scale_copy<bf16, bf16>}},
    {{add_bias<float, float>, add_bias<float, bf16>}, {add_bias<bf16, float>, add_bias<bf16, bf16>}},
    {sum_over_rows<float>, sum_over_rows<bf16>},
};

}  // namespace jambalaya::JAMBALAYA_NS
