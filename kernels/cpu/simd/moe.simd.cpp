#include "kernels/cpu/simd/moe.h"

#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {
namespace {

// A chosen expert's key: below every key that an expert can have, so that no expert is chosen twice.
constexpr float kTaken = -__builtin_inff();
constexpr float kLowest = -__FLT_MAX__;

/// Keys decide the choice. They are the logits themselves, not their probabilities: softmax keeps the order,
/// and logits are exact where probabilities may round to a tie. NaN and -inf count as the lowest finite
/// number, which keeps the choice well defined (the lower index) while probs and lse still show the NaN.
float choice_keys(const float* logits, int64_t experts, float* keys) {
  Vec top = set1(kTaken);
  for (int64_t i = 0; i < experts; i += kLanes) {
    Mask here = first(experts - i);
    Vec key =
        max(load(logits + i, experts - i), set1(kLowest));  // x86: the second operand where the first is NaN
    store(keys + i, key, experts - i);
    top = max(top, select(here, key, set1(kTaken)));
  }
  return maximum(top);
}

/// Index of the largest key, the lowest index among equals; the key is then taken.
int32_t take_largest(float* keys, int64_t experts) {
  Vec top = set1(kTaken);
  for (int64_t i = 0; i < experts; i += kLanes) {
    top = max(top, select(first(experts - i), load(keys + i, experts - i), set1(kTaken)));
  }
  float largest = maximum(top);
  int32_t x = 0;
  while (keys[x] < largest) x++;
  keys[x] = kTaken;
  return x;
}

/// probs = softmax(logits); returns logsumexp. `top` is the largest logit.
float softmax(const float* logits, int64_t experts, float top, float* probs) {
  Vec total = zero();
  for (int64_t i = 0; i < experts; i += kLanes) {
    int64_t n = experts - i;
    Vec e = exp(load(logits + i, n) - set1(top));
    store(probs + i, e, n);
    total = total + select(first(n), e, zero());
  }
  Vec s = set1(sum(total));
  for (int64_t i = 0; i < experts; i += kLanes)
    store(probs + i, load(probs + i, experts - i) / s, experts - i);
  return top + maximum(log(s));
}

void router_forward(const RouterForwardArgs& a) {
  for (int64_t x = 0; x < a.experts; x++) a.counts[x] = 0, a.prob_sums[x] = 0;
  double lse_square = 0;
  for (int64_t t = a.begin; t < a.end; t++) {
    const float* logits = a.logits + t * a.experts;
    float* probs = a.probs + t * a.experts;
    float lse = softmax(logits, a.experts, choice_keys(logits, a.experts, a.keys), probs);
    a.lse[t] = lse;
    lse_square += double(lse) * double(lse);
    for (int64_t i = 0; i < a.experts; i += kLanes) {
      int64_t n = a.experts - i;
      store(a.prob_sums + i, load(a.prob_sums + i, n) + load(probs + i, n), n);
    }
    float chosen = 0;
    for (int64_t k = 0; k < a.k; k++) {
      int32_t x = take_largest(a.keys, a.experts);
      a.expert[t * a.k + k] = x;
      a.weight[t * a.k + k] = probs[x];
      a.counts[x]++;
      chosen += probs[x];
    }
    if (a.renormalize) {
      for (int64_t k = 0; k < a.k; k++) a.weight[t * a.k + k] /= chosen;
    }
  }
  *a.lse_square = lse_square;
}

void router_backward(const RouterBackwardArgs& a) {
  for (int64_t t = a.begin; t < a.end; t++) {
    const float *p = a.probs + t * a.experts, *dw = a.dweight + t * a.k;
    const int32_t* expert = a.expert + t * a.k;
    float* dl = a.dlogits + t * a.experts;
    // w = p / s with s = sum of the chosen p:  dp = (dw - <dw, w>) / s. Not renormalised: dp = dw.
    float mean = 0, chosen = 1;
    if (a.renormalize) {
      chosen = 0;
      for (int64_t k = 0; k < a.k; k++) {
        mean += dw[k] * a.weight[t * a.k + k];
        chosen += p[expert[k]];
      }
    }
    Vec products = zero();
    if (a.dprob) {
      for (int64_t i = 0; i < a.experts; i += kLanes) {
        products = fma(load(p + i, a.experts - i), load(a.dprob + i, a.experts - i), products);
      }
    }
    float inner = sum(products);  // <p, dp>
    for (int64_t k = 0; k < a.k; k++) inner += p[expert[k]] * ((dw[k] - mean) / chosen);
    Vec common = set1(2 * a.z_scale * a.lse[t] - inner);
    for (int64_t i = 0; i < a.experts; i += kLanes) {
      int64_t n = a.experts - i;
      Vec dp = a.dprob ? load(a.dprob + i, n) + common : common;
      store(dl + i, load(p + i, n) * dp, n);
    }
    for (int64_t k = 0; k < a.k; k++) dl[expert[k]] += p[expert[k]] * ((dw[k] - mean) / chosen);
  }
}

template <class X, class Y>
void sum_rows(const SumRowsArgs& a) {
  const X* x = static_cast<const X*>(a.x);
  for (int64_t t = a.begin; t < a.end; t++) {
    const int32_t* rows = a.row_of + t * a.k;
    Y* y = static_cast<Y*>(a.y) + t * a.y_stride;
    for (int64_t i = 0; i < a.width; i += kLanes) {
      int64_t n = a.width - i;
      Vec total = zero();
      for (int64_t k = 0; k < a.k; k++) {
        Vec row = load(x + rows[k] * a.x_stride + i, n);
        total = a.weight ? fma(set1(a.weight[t * a.k + k]), row, total) : total + row;
      }
      store(y + i, a.accumulate ? load(y + i, n) + total : total, n);
    }
  }
}

template <class G, class X>
void spread_rows(const SpreadRowsArgs& a) {
  for (int64_t t = a.begin; t < a.end; t++) {
    const G* dy = static_cast<const G*>(a.dy) + t * a.dy_stride;
    for (int64_t k = t * a.k; k < (t + 1) * a.k; k++) {
      const X* x = static_cast<const X*>(a.x) + a.row_of[k] * a.x_stride;
      X* dx = static_cast<X*>(a.dx) + a.row_of[k] * a.dx_stride;
      Vec w = set1(a.weight[k]), even = zero(), odd = zero();
      int64_t i = 0;
      for (; i + 2 * kLanes <= a.width; i += 2 * kLanes) {
        Vec g = load(dy + i), h = load(dy + i + kLanes);
        even = fma(g, load(x + i), even);
        odd = fma(h, load(x + i + kLanes), odd);
        store(dx + i, w * g);
        store(dx + i + kLanes, w * h);
      }
      for (; i < a.width; i += kLanes) {
        int64_t n = a.width - i;
        Vec g = load(dy + i, n);
        even = fma(g, load(x + i, n), even);
        store(dx + i, w * g, n);
      }
      a.dweight[k] = sum(even + odd);
    }
  }
}

}  // namespace

extern const MoeKernels moe_kernels;
const MoeKernels moe_kernels{
    router_forward,
    router_backward,
    {{sum_rows<float, float>, sum_rows<float, bf16>}, {sum_rows<bf16, float>, sum_rows<bf16, bf16>}},
    {{spread_rows<float, float>, spread_rows<float, bf16>},
     {spread_rows<bf16, float>, spread_rows<bf16, bf16>}},
};

}  // namespace jambalaya::JAMBALAYA_NS
