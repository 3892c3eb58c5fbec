// One token for each of many sequences: the ops of a layer in generation, with cache and carried state.
#include <cmath>

#include "scripts/benchmarks/kernel_cases.h"

namespace jambalaya::bench {

namespace {

constexpr int64_t S = 64;  // sequences

/// The new tokens, each with its sequence's past, and where the sequences' keys begin.
struct Slots {
  DocumentsBuffer documents;
  std::vector<int64_t> key_begin;
  explicit Slots(int64_t cached) {
    documents.assign(std::vector<int64_t>(S, 1), std::vector<int64_t>(S, cached));
    for (int64_t s = 0; s < S; s++) key_begin.push_back(s * (cached + 1));
  }
};

}  // namespace

void add_generation(CaseList& list) {
  const auto w = list.w;
  const auto slots = std::make_shared<const Slots>(w.cached);
  const double state = 4.0 * double(S * w.N) * double(w.E), e = double(w.E), n = double(w.N);
  const std::string shape = cat(S, " sequences");
  list.product("generation: in_proj", S, 2 * w.E, w.D);
  list.product("generation: head", S, w.V, w.D);
  // The inputs before the token, read and written; the weights.
  list.add("generation: convolution", cat(shape, " x ", w.E), {double(S) * e * (2 * 12 + 4) + 20 * e},
           [=](BenchDevice& d) {
             const Tensor past = d.zeros(DType::f32, {S, 3, w.E});
             const ConvForward op{.x = d.uniform(DType::bf16, {S, w.E}),
                                  .w = d.uniform(DType::f32, {w.E, 4}),
                                  .bias = d.uniform(DType::f32, {w.E}),
                                  .docs = d.upload(slots->documents.view()),
                                  .left = past,
                                  .u = d.zeros(DType::bf16, {S, w.E}),
                                  .tail = past};
             return calls(d, &Ops::conv_forward, op);
           });
  list.add("generation: scan", cat(shape, " x ", w.E, " x ", w.N),
           {2 * state + 8 * double(S) * e + 4 * e * n}, [=](BenchDevice& d) {
             const Tensor h = d.zeros(DType::f32, {S, w.N, w.E});
             const ScanForward op{.u = d.uniform(DType::bf16, {S, w.E}),
                                  .s = d.uniform(DType::bf16, {S, w.E}),
                                  .z = d.uniform(DType::bf16, {S, w.E}),
                                  .b = d.uniform(DType::f32, {S, w.N}),
                                  .c = d.uniform(DType::f32, {S, w.N}),
                                  .a_log = d.uniform(DType::f32, {w.E, w.N}, 0, std::log(16.0)),
                                  .d = d.uniform(DType::f32, {w.E}),
                                  .dt_bias = d.uniform(DType::f32, {w.E}, -6, -3),
                                  .docs = d.upload(slots->documents.view()),
                                  .h0 = h,
                                  .o = d.zeros(DType::bf16, {S, w.E}),
                                  .h_last = h};
             return calls(d, &Ops::scan_forward, op);
           });
  const int64_t rows = S * (w.cached + 1);
  list.add("generation: attention", cat(shape, ", ", w.cached + 1, " keys each"),
           {4.0 * double(rows) * double(w.G * w.C) + 4.0 * double(S * w.H * w.C)}, [=](BenchDevice& d) {
             const AttentionForward op{.q = d.uniform(DType::bf16, {S, w.H * w.C}),
                                       .k = d.uniform(DType::bf16, {rows, w.G * w.C}),
                                       .v = d.uniform(DType::bf16, {rows, w.G * w.C}),
                                       .head_size = w.C,
                                       .scale = 1 / std::sqrt(float(w.C)),
                                       .docs = d.upload(slots->documents.view()),
                                       .key_begin = make_tensor(slots->key_begin.data(), {S}),
                                       .o = d.zeros(DType::bf16, {S, w.H * w.C})};
             return calls(d, &Ops::attention_forward, op);
           });
}

}  // namespace jambalaya::bench
