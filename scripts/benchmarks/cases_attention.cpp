// Attention inside documents, its parts for a ring of ranks, and rotary positions.
#include <cmath>

#include "scripts/benchmarks/kernel_cases.h"

namespace jambalaya::bench {

namespace {

AttentionForward attention_of(const CaseList& list, BenchDevice& d) {
  const auto& w = list.w;
  return {.q = d.uniform(DType::bf16, {list.T, w.H * w.C}),
          .k = d.uniform(DType::bf16, {list.T, w.G * w.C}),
          .v = d.uniform(DType::bf16, {list.T, w.G * w.C}),
          .head_size = w.C,
          .scale = 1 / std::sqrt(float(w.C)),
          .docs = list.documents(d),
          .o = d.zeros(DType::bf16, {list.T, w.H * w.C}),
          .lse = d.zeros(DType::f32, {w.H, list.T})};
}

AttentionBackward backward_of(const AttentionForward& f, BenchDevice& d) {
  const int64_t T = f.q.rows(), wide = f.q.columns(), narrow = f.k.columns();
  return {.d_out = d.uniform(DType::bf16, {T, wide}),
          .q = f.q,
          .k = f.k,
          .v = f.v,
          .o = f.o,
          .lse = f.lse,
          .head_size = f.head_size,
          .scale = f.scale,
          .docs = f.docs,
          .dq = d.zeros(DType::bf16, {T, wide}),
          .dk = d.zeros(DType::bf16, {T, narrow}),
          .dv = d.zeros(DType::bf16, {T, narrow})};
}

void add_whole(CaseList& list) {
  const auto& w = list.w;
  const double T = double(list.T), n = double(list.length), heads = double(w.H), wide = T * double(w.H * w.C),
               both = T * double((w.H + w.G) * w.C);
  const double pairs = T / n * n * (n + 1) / 2;  // visible (query, key) pairs
  const double flops = 4 * pairs * double(w.H * w.C);
  const std::string shape = cat(list.T, " tokens in documents of ", list.length);
  list.add("attention forward", shape, {4 * both + 4 * heads * T, flops, pairs * heads},
           [&list](BenchDevice& d) { return calls(d, &Ops::attention_forward, attention_of(list, d)); });
  // Five products of the forward's two.
  list.add("attention backward", shape, {8 * both + 4 * heads * T, 2.5 * flops, pairs * heads},
           [&list](BenchDevice& d) {
             const AttentionForward f = attention_of(list, d);
             d.ops().attention_forward(d.context(), f);
             return calls(d, &Ops::attention_backward, backward_of(f, d));
           });
  const std::string rows = cat(list.T, " x ", w.H * w.C);
  list.add("attention delta", rows, {4 * wide + 4 * heads * T}, [&list](BenchDevice& d) {
    const int64_t tokens = list.T, columns = list.w.H * list.w.C;
    const AttentionDelta op{.d_out = d.uniform(DType::bf16, {tokens, columns}),
                            .o = d.uniform(DType::bf16, {tokens, columns}),
                            .head_size = list.w.C,
                            .delta = d.zeros(DType::f32, {list.w.H, tokens})};
    return calls(d, &Ops::attention_delta, op);
  });
  // o read and written, part read; both logsumexps, one of them written.
  list.add("attention merge", rows, {12 * wide + 12 * heads * T, 0, 2 * heads * T}, [&list](BenchDevice& d) {
    const int64_t tokens = list.T, columns = list.w.H * list.w.C;
    const AttentionMerge op{.o = d.uniform(DType::f32, {tokens, columns}),
                            .lse = d.uniform(DType::f32, {list.w.H, tokens}),
                            .part = d.uniform(DType::f32, {tokens, columns}),
                            .part_lse = d.uniform(DType::f32, {list.w.H, tokens}),
                            .head_size = list.w.C};
    return calls(d, &Ops::attention_merge, op);
  });
  list.add("RoPE of queries and keys", shape, {4 * both}, [&list](BenchDevice& d) {
    const Documents docs = list.documents(d);
    const Rope q{
        .x = d.uniform(DType::bf16, {list.T, list.w.H * list.w.C}), .head_size = list.w.C, .docs = docs},
        k{.x = d.uniform(DType::bf16, {list.T, list.w.G * list.w.C}), .head_size = list.w.C, .docs = docs};
    return [=, &d] { d.ops().rope(d.context(), q), d.ops().rope(d.context(), k); };
  });
}

/// Every query sees a whole block of keys that another rank sent: fp32 results, to be merged.
void add_block(CaseList& list) {
  const auto& w = list.w;
  const int64_t T = list.length;  // one document's queries, as many keys before them
  const double t = double(T), wide = t * double(w.H * w.C), narrow = t * double(w.G * w.C), pairs = t * t,
               flops = 4 * pairs * double(w.H * w.C);
  struct Block {
    DocumentsBuffer documents;
    std::vector<int64_t> begin{0}, count;
  };
  const auto block = std::make_shared<Block>();
  block->documents.assign({T}, {T});
  block->count = {T};
  auto forward = [w, T, block](BenchDevice& d) {
    return AttentionForward{.q = d.uniform(DType::bf16, {T, w.H * w.C}),
                            .k = d.uniform(DType::bf16, {T, w.G * w.C}),
                            .v = d.uniform(DType::bf16, {T, w.G * w.C}),
                            .head_size = w.C,
                            .scale = 1 / std::sqrt(float(w.C)),
                            .docs = d.upload(block->documents.view()),
                            .key_begin = make_tensor(block->begin.data(), {1}),
                            .key_count = make_tensor(block->count.data(), {1}),
                            .o = d.zeros(DType::f32, {T, w.H * w.C}),
                            .lse = d.zeros(DType::f32, {w.H, T})};
  };
  const std::string shape = cat(T, " queries x ", T, " keys");
  list.add("attention block forward", shape,
           {6 * wide + 4 * narrow + 4 * double(w.H) * t, flops, pairs * double(w.H)},
           [=](BenchDevice& d) { return calls(d, &Ops::attention_forward, forward(d)); });
  // fp32 sums of dq, dk, dv are read and written.
  list.add("attention block backward", shape,
           {12 * wide + 20 * narrow + 8 * double(w.H) * t, 2.5 * flops, pairs * double(w.H)},
           [=](BenchDevice& d) {
             const AttentionForward f = forward(d);
             d.ops().attention_forward(d.context(), f);
             const AttentionBackward op{.d_out = d.uniform(DType::bf16, {T, w.H * w.C}),
                                        .q = f.q,
                                        .k = f.k,
                                        .v = f.v,
                                        .lse = f.lse,
                                        .head_size = w.C,
                                        .scale = f.scale,
                                        .docs = f.docs,
                                        .key_begin = f.key_begin,
                                        .key_count = f.key_count,
                                        .delta = d.uniform(DType::f32, {w.H, T}),
                                        .dq = d.zeros(DType::f32, {T, w.H * w.C}),
                                        .dk = d.zeros(DType::f32, {T, w.G * w.C}),
                                        .dv = d.zeros(DType::f32, {T, w.G * w.C}),
                                        .accumulate = true};
             return calls(d, &Ops::attention_backward, op);
           });
}

}  // namespace

void add_attention(CaseList& list) {
  add_whole(list);
  add_block(list);
}

}  // namespace jambalaya::bench
