// Embedding, head with loss, and the optimizer.
#include <cmath>
#include <set>

#include "kernels/philox.h"
#include "scripts/benchmarks/kernel_cases.h"

namespace jambalaya::bench {

namespace {

/// Ids as text has them: the n-th most frequent comes about as often as 1/n (Zipf), most frequent ones
/// anywhere in the table.
std::vector<int32_t> ids_of(int64_t tokens, int64_t vocabulary) {
  const uint64_t key = hash_name(7, "ids");
  std::vector<int32_t> ids(static_cast<size_t>(tokens));
  for (size_t t = 0; t < ids.size(); t++) {
    const double rank = std::pow(double(vocabulary), double(uniform_at(key, t))) - 1;
    ids[t] = int32_t(int64_t(rank) * 7919 % vocabulary);
  }
  return ids;
}

/// Every id as often as every other.
std::vector<int32_t> even_ids(int64_t tokens, int64_t vocabulary) {
  std::vector<int32_t> ids(static_cast<size_t>(tokens));
  for (int64_t t = 0; t < tokens; t++) ids[size_t(t)] = int32_t(t * 7919 % vocabulary);
  return ids;
}

void add_embedding(CaseList& list, const char* which, const std::vector<int32_t>& ids) {
  const int64_t T = list.T, D = list.w.D, V = list.w.V;
  const double td = double(T) * double(D),
               touched = double(std::set<int32_t>(ids.begin(), ids.end()).size()) * double(D);
  const std::string shape = cat(T, " x ", D, ", ", which);
  list.add("embedding forward", shape, {2 * td + 2 * touched + 4.0 * double(T)}, [=](BenchDevice& d) {
    const EmbeddingForward op{
        .ids = d.copy_of(ids), .table = d.uniform(DType::bf16, {V, D}), .y = d.zeros(DType::bf16, {T, D})};
    return calls(d, &Ops::embedding_forward, op);
  });
  list.add("embedding backward", shape, {2 * td + 8 * touched + 4.0 * double(T)}, [=](BenchDevice& d) {
    const EmbeddingBackward op{
        .ids = d.copy_of(ids), .dy = d.uniform(DType::bf16, {T, D}), .dtable = d.zeros(DType::f32, {V, D})};
    return calls(d, &Ops::embedding_backward, op);
  });
}

}  // namespace

void add_vocabulary(CaseList& list) {
  const int64_t T = list.T, D = list.w.D, V = list.w.V;
  const std::vector<int32_t> ids = ids_of(T, V);
  add_embedding(list, "ids of text", ids);
  add_embedding(list, "even ids", even_ids(T, V));
  const double tv = double(T) * double(V);
  const std::string shape = cat(T, " x ", V, " x ", D);
  auto call = [=](BenchDevice& d, bool backward) {
    HeadLoss op{.h = d.uniform(DType::bf16, {T, D}, -0.1, 0.1),
                .w = d.uniform(DType::bf16, {V, D}, -0.1, 0.1),
                .targets = d.copy_of(ids),
                .scale = 1 / float(T),
                .loss_sum = d.zeros(DType::f64, {2})};
    if (backward) op.dh = d.zeros(DType::bf16, {T, D}), op.dw = d.zeros(DType::f32, {V, D});
    return calls(d, &Ops::head_loss, op);
  };
  // The logits of a chunk are written and read once, as bf16.
  list.add("head and loss, forward", shape, {4 * tv, 2 * tv * double(D), tv},
           [=](BenchDevice& d) { return call(d, false); });
  list.add("head and loss, forward and backward", shape, {4 * tv, 6 * tv * double(D), 2 * tv},
           [=](BenchDevice& d) { return call(d, true); });
}

void add_optimizer(CaseList& list) {
  const int64_t n = list.w.parameters;
  // Parameter and moments read and written, the gradient read, the bf16 copy written.
  list.add("AdamW", cat(n, " parameters"), {30.0 * double(n)}, [=](BenchDevice& d) {
    const AdamW op{.param = d.uniform(DType::f32, {n}),
                   .m = d.zeros(DType::f32, {n}),
                   .v = d.zeros(DType::f32, {n}),
                   .grad = d.uniform(DType::f32, {n}),
                   .compute = d.zeros(DType::bf16, {n}),
                   .grad_scale = d.zeros(DType::f32, {2}),
                   .lr = 1e-3f,
                   .decay = 0.1f};
    return calls(d, &Ops::adamw, op);
  });
  list.add("gradient norm", cat(n, " parameters"), {4.0 * double(n)}, [=](BenchDevice& d) {
    const SumSquares op{.x = d.uniform(DType::f32, {n}), .out = d.zeros(DType::f64, {2})};
    return calls(d, &Ops::sum_squares, op);
  });
}

}  // namespace jambalaya::bench
