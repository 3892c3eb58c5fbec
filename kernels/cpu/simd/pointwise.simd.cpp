#include "kernels/cpu/simd/pointwise.h"

#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {
namespace {

template <class T>
void swiglu_forward(const SwigluArgs& a) {
  for (int64_t r = 0; r < a.rows; r++) {
    const T* gate = static_cast<const T*>(a.gate_up) + r * a.gate_up_stride;
    const T* up = gate + a.width;
    T* h = static_cast<T*>(a.h) + r * a.h_stride;
    for (int64_t i = 0; i < a.width; i += kLanes) {
      int64_t n = a.width - i;
      Vec g = load(gate + i, n);
      store(h + i, g * sigmoid(g) * load(up + i, n), n);
    }
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
    for (int64_t i = 0; i < a.width; i += kLanes) {
      int64_t n = a.width - i;
      Vec g = load(gate + i, n), u = load(up + i, n), d = load(dh + i, n);
      Vec s = sigmoid(g), silu = g * s;
      store(dgate + i, d * u * fma(silu, set1(1) - s, s), n);
      store(dup + i, d * silu, n);
    }
  }
}

template <class X, class Y>
void scale_copy(const ScaleCopyArgs& a) {
  Vec alpha = set1(a.alpha);
  for (int64_t r = 0; r < a.rows; r++) {
    const X* x = static_cast<const X*>(a.x) + r * a.x_stride;
    Y* y = static_cast<Y*>(a.y) + r * a.y_stride;
    for (int64_t i = 0; i < a.columns; i += kLanes) {
      int64_t n = a.columns - i;
      Vec scaled = alpha * load(x + i, n);
      store(y + i, a.accumulate ? load(y + i, n) + scaled : scaled, n);
    }
  }
}

template <class X, class B>
void add_bias(const BiasArgs& a) {
  const B* bias = static_cast<const B*>(a.bias);
  for (int64_t r = 0; r < a.rows; r++) {
    X* x = static_cast<X*>(a.x) + r * a.x_stride;
    for (int64_t i = 0; i < a.columns; i += kLanes) {
      int64_t n = a.columns - i;
      store(x + i, load(x + i, n) + load(bias + i, n), n);
    }
  }
}

template <class X>
void sum_over_rows(const BiasArgs& a) {
  float* bias = static_cast<float*>(a.bias);
  for (int64_t i = 0; i < a.columns; i += 2 * kLanes) {
    int64_t n = min_i(a.columns - i, kLanes), m = max_i(0, min_i(a.columns - i - kLanes, kLanes));
    const X* x = static_cast<const X*>(a.x) + i;
    Vec left = zero(), right = zero();
    for (int64_t r = 0; r < a.rows; r++, x += a.x_stride) {
      left = left + load(x, n);
      if (m) right = right + load(x + kLanes, m);
    }
    store(bias + i, left, n);
    if (m) store(bias + i + kLanes, right, m);
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
