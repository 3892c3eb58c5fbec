// Rows of the embedding table, and the softmax over the vocabulary.
#include "kernels/cpu/simd/vocab.h"

#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {
namespace {

template <class From, class To>
void look_up(const LookUpRows& a) {
  for (int64_t i = 0; i < a.count; i++) {
    const int64_t row = a.ids[i] - a.first_id;
    To* to = static_cast<To*>(a.y) + i * a.y_stride;
    if (row < 0 || row >= a.table_rows) {
      __builtin_memset(to, 0, size_t(a.width) * sizeof(To));
      continue;
    }
    const From* from = static_cast<const From*>(a.table) + row * a.table_stride;
    int64_t c = 0;
    for (; c + kLanes <= a.width; c += kLanes) store(to + c, load(from + c));
    if (c < a.width) store(to + c, load(from + c, a.width - c), a.width - c);
  }
}

/// Columns [c, c + kVectors * kLanes) of a row; `last` bounds the last vector.
template <class Act, int kVectors>
JAMBALAYA_INLINE void sum_columns(const SumRows& a, int64_t c, int64_t last) {
  Vec total[kVectors];
#pragma GCC unroll 8
  for (int j = 0; j < kVectors; j++) total[j] = zero();
  for (int64_t i = 0; i < a.count; i++) {
    const Act* from = static_cast<const Act*>(a.dy) + a.tokens[i] * a.dy_stride + c;
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; j++)
      total[j] = total[j] + (j + 1 < kVectors ? load(from + j * kLanes) : load(from + j * kLanes, last));
  }
#pragma GCC unroll 8
  for (int j = 0; j < kVectors; j++) {
    float* to = a.row + c + j * kLanes;
    if (j + 1 < kVectors)
      store(to, load(to) + total[j]);
    else
      store(to, load(to, last) + total[j], last);
  }
}

template <class Act>
void sum_rows(const SumRows& a) {
  int64_t c = 0;
  for (; c + 8 * kLanes <= a.width; c += 8 * kLanes) sum_columns<Act, 8>(a, c, kLanes);
  for (; c < a.width; c += kLanes) sum_columns<Act, 1>(a, c, min_i(kLanes, a.width - c));
}

/// Two passes over the row, each with four chains of operations so that latency does not bind.
SoftmaxResult softmax_row(const SoftmaxRow& a) {
  constexpr int kChains = 4;
  const int64_t n = a.vocabulary, whole = n / kLanes * kLanes,
                unrolled = n / (kChains * kLanes) * (kChains * kLanes);
  const Vec lowest = set1(-__builtin_inff());
  Vec top[kChains] = {lowest, lowest, lowest, lowest};
  for (int64_t i = 0; i < unrolled; i += kChains * kLanes)
#pragma GCC unroll 4
    for (int j = 0; j < kChains; j++) top[j] = max(load(a.logits + i + j * kLanes), top[j]);
  for (int64_t i = unrolled; i < whole; i += kLanes) top[0] = max(load(a.logits + i), top[0]);
  if (whole < n) top[1] = max(select(first(n - whole), load(a.logits + whole, n - whole), lowest), top[1]);

  SoftmaxResult r;
  r.largest = maximum(max(max(top[0], top[1]), max(top[2], top[3])));
  r.target_logit = a.target < 0 ? -__builtin_inff() : a.logits[a.target];
  r.correct = a.target >= 0 && r.target_logit == r.largest;
  for (int64_t i = 0; r.correct && i < a.target; i++) r.correct = a.logits[i] != r.largest;

  const Vec shift = set1(r.largest);
  Vec total[kChains] = {zero(), zero(), zero(), zero()};
  auto step = [&](int64_t i, int j) __attribute__((always_inline)) {
    Vec e = exp(load(a.logits + i) - shift);
    total[j] = total[j] + e;
    if (a.exponentiate) store(a.logits + i, e);
  };
  for (int64_t i = 0; i < unrolled; i += kChains * kLanes)
#pragma GCC unroll 4
    for (int j = 0; j < kChains; j++) step(i + j * kLanes, j);
  for (int64_t i = unrolled; i < whole; i += kLanes) step(i, 0);
  if (whole < n) {
    Vec e = select(first(n - whole), exp(load(a.logits + whole, n - whole) - shift), zero());
    total[1] = total[1] + e;
    if (a.exponentiate) store(a.logits + whole, e, n - whole);
  }
  r.sum = sum((total[0] + total[1]) + (total[2] + total[3]));
  return r;
}

/// In place: an element of Act is no wider than the fp32 one it comes from, so it never overtakes the reads.
template <class Act>
void logit_gradient(const LogitGradientRow& a) {
  Act* to = reinterpret_cast<Act*>(a.exponentials);
  const Vec factor = set1(a.factor);
  const float at_target = a.target < 0 ? 0.0f : a.exponentials[a.target] * a.factor - a.at_target;
  int64_t i = 0;
  for (; i + kLanes <= a.vocabulary; i += kLanes) store(to + i, load(a.exponentials + i) * factor);
  if (i < a.vocabulary) store(to + i, load(a.exponentials + i, a.vocabulary - i) * factor, a.vocabulary - i);
  if (a.target >= 0) store(to + a.target, set1(at_target), 1);
}

}  // namespace

extern const VocabKernels vocab_kernels;
const VocabKernels vocab_kernels{
    .look_up_f32_to_f32 = look_up<float, float>,
    .look_up_f32_to_bf16 = look_up<float, bf16>,
    .look_up_bf16_to_f32 = look_up<bf16, float>,
    .look_up_bf16_to_bf16 = look_up<bf16, bf16>,
    .sum_rows_f32 = sum_rows<float>,
    .sum_rows_bf16 = sum_rows<bf16>,
    .softmax_row = softmax_row,
    .logit_gradient_f32 = logit_gradient<float>,
    .logit_gradient_bf16 = logit_gradient<bf16>,
};

}  // namespace jambalaya::JAMBALAYA_NS
