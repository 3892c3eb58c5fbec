// Convolution and selective scan.
#include <cmath>

#include "scripts/benchmarks/kernel_cases.h"

namespace jambalaya::bench {

namespace {

ScanForward scan_of(const CaseList& list, BenchDevice& d) {
  const int64_t T = list.T, E = list.w.E, N = list.w.N;
  return {.u = d.uniform(DType::bf16, {T, E}),
          .s = d.uniform(DType::bf16, {T, E}),
          .z = d.uniform(DType::bf16, {T, E}),
          .b = d.uniform(DType::f32, {T, N}),
          .c = d.uniform(DType::f32, {T, N}),
          .a_log = d.uniform(DType::f32, {E, N}, 0, std::log(16.0)),
          .d = d.uniform(DType::f32, {E}),
          .dt_bias = d.uniform(DType::f32, {E}, -6, -3),
          .docs = list.documents(d),
          .o = d.zeros(DType::bf16, {T, E}),
          .states = d.zeros(DType::f32, {scan_states(T), N, E})};
}

void add_scans(CaseList& list) {
  const int64_t T = list.T, E = list.w.E, N = list.w.N;
  const double te = double(T) * double(E), tn = double(T) * double(N), updates = te * double(N),
               states = 4.0 * double(scan_states(T)) * double(N) * double(E);
  const std::string shape = cat(T, " x ", E, " x ", N);
  // u, s, z in, o out. Softplus and SiLU are 4 special functions a channel besides the decays' exponentials.
  list.add("scan forward", shape, {8 * te + 8 * tn + states, 0, updates + 4 * te, 5.5 * updates},
           [&list](BenchDevice& d) { return calls(d, &Ops::scan_forward, scan_of(list, d)); });
  list.add("scan backward", shape, {14 * te + 16 * tn + states, 0, updates + 8 * te, 13 * updates},
           [&list, T, E, N](BenchDevice& d) {
             const ScanForward f = scan_of(list, d);
             d.ops().scan_forward(d.context(), f);
             const ScanBackward op{.d_out = d.uniform(DType::bf16, {T, E}),
                                   .u = f.u,
                                   .s = f.s,
                                   .z = f.z,
                                   .b = f.b,
                                   .c = f.c,
                                   .a_log = f.a_log,
                                   .d = f.d,
                                   .dt_bias = f.dt_bias,
                                   .docs = f.docs,
                                   .states = f.states,
                                   .du = d.zeros(DType::bf16, {T, E}),
                                   .ds = d.zeros(DType::bf16, {T, E}),
                                   .dz = d.zeros(DType::bf16, {T, E}),
                                   .db = d.zeros(DType::f32, {T, N}),
                                   .dc = d.zeros(DType::f32, {T, N}),
                                   .da_log = d.zeros(DType::f32, {E, N}),
                                   .dd = d.zeros(DType::f32, {E}),
                                   .ddt_bias = d.zeros(DType::f32, {E})};
             return calls(d, &Ops::scan_backward, op);
           });
}

// What a shard of a longer stream does to a state that passes through it. Only its last (first) segment
// counts, so that a shard is timed that lies inside one document.
void add_carries(CaseList& list) {
  const int64_t T = list.T, E = list.w.E, N = list.w.N;
  const double te = double(T) * double(E), tn = double(T) * double(N), updates = te * double(N);
  const std::string shape = cat(T, " x ", E, " x ", N, ", one document");
  const auto whole = std::make_shared<DocumentsBuffer>(std::vector<int64_t>{T});
  // u, s in; an update is three multiplications and an addition, two of them fused.
  list.add("scan carry forward", shape, {4 * te + 4 * tn, 0, updates + 2 * te, 4 * updates},
           [=](BenchDevice& d) {
             const ScanCarryForward op{.u = d.uniform(DType::bf16, {T, E}),
                                       .s = d.uniform(DType::bf16, {T, E}),
                                       .b = d.uniform(DType::f32, {T, N}),
                                       .a_log = d.uniform(DType::f32, {E, N}, 0, std::log(16.0)),
                                       .dt_bias = d.uniform(DType::f32, {E}, -6, -3),
                                       .docs = d.upload(whole->view()),
                                       .h_end = d.zeros(DType::f32, {N, E}),
                                       .decay = d.zeros(DType::f32, {N, E})};
             return calls(d, &Ops::scan_carry_forward, op);
           });
  // d_out, s, z in.
  list.add("scan carry backward", shape, {6 * te + 4 * tn, 0, updates + 4 * te, 3 * updates},
           [=](BenchDevice& d) {
             const ScanCarryBackward op{.d_out = d.uniform(DType::bf16, {T, E}),
                                        .s = d.uniform(DType::bf16, {T, E}),
                                        .z = d.uniform(DType::bf16, {T, E}),
                                        .c = d.uniform(DType::f32, {T, N}),
                                        .a_log = d.uniform(DType::f32, {E, N}, 0, std::log(16.0)),
                                        .dt_bias = d.uniform(DType::f32, {E}, -6, -3),
                                        .docs = d.upload(whole->view()),
                                        .dh0 = d.zeros(DType::f32, {N, E})};
             return calls(d, &Ops::scan_carry_backward, op);
           });
  list.add("state through a shard", cat(N, " x ", E), {16.0 * double(N * E)}, [=](BenchDevice& d) {
    const MultiplyAdd op{d.uniform(DType::f32, {N, E}), d.uniform(DType::f32, {N, E}),
                         d.uniform(DType::f32, {N, E}), d.zeros(DType::f32, {N, E})};
    return calls(d, &Ops::multiply_add, op);
  });
}

void add_convolutions(CaseList& list) {
  const int64_t T = list.T, E = list.w.E;
  const double te = double(T) * double(E);
  // A sigmoid takes one special function (tanh) at least.
  list.add("convolution forward", cat(T, " x ", E), {4 * te, 0, te}, [&list, T, E](BenchDevice& d) {
    const ConvForward op{.x = d.uniform(DType::bf16, {T, E}),
                         .w = d.uniform(DType::f32, {E, 4}),
                         .bias = d.uniform(DType::f32, {E}),
                         .docs = list.documents(d),
                         .u = d.zeros(DType::bf16, {T, E})};
    return calls(d, &Ops::conv_forward, op);
  });
  list.add("convolution backward", cat(T, " x ", E), {6 * te, 0, te}, [&list, T, E](BenchDevice& d) {
    const ConvBackward op{.du = d.uniform(DType::bf16, {T, E}),
                          .x = d.uniform(DType::bf16, {T, E}),
                          .w = d.uniform(DType::f32, {E, 4}),
                          .bias = d.uniform(DType::f32, {E}),
                          .docs = list.documents(d),
                          .dx = d.zeros(DType::bf16, {T, E}),
                          .dw = d.zeros(DType::f32, {E, 4}),
                          .dbias = d.zeros(DType::f32, {E})};
    return calls(d, &Ops::conv_backward, op);
  });
}

}  // namespace

void add_state_space(CaseList& list) {
  add_scans(list);
  add_carries(list);
  add_convolutions(list);
}

}  // namespace jambalaya::bench
