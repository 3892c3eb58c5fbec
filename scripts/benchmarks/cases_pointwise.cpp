// Norms, SwiGLU, biases and copies: what memory bounds.
#include "scripts/benchmarks/kernel_cases.h"

namespace jambalaya::bench {

namespace {

/// The residual stream h in fp32 (residual_fp32, the default) or bf16; branch and y in bf16.
void add_rms_norms(CaseList& list, DType residual) {
  const int64_t T = list.T, D = list.w.D;
  const double td = double(T) * double(D), h_bytes = double(size_of(residual));
  const std::string shape = cat(T, " x ", D, residual == DType::f32 ? ", residual fp32" : ", residual bf16");
  list.add("RMSNorm with residual forward", shape, {(2 * h_bytes + 4) * td + 4.0 * double(T)},
           [=](BenchDevice& d) {
             const RmsNormForward op{.h = d.uniform(residual, {T, D}),
                                     .branch = d.uniform(DType::bf16, {T, D}),
                                     .weight = d.uniform(DType::f32, {D}),
                                     .h_out = d.zeros(residual, {T, D}),
                                     .y = d.zeros(DType::bf16, {T, D}),
                                     .rstd = d.zeros(DType::f32, {T})};
             return calls(d, &Ops::rms_norm_forward, op);
           });
  list.add("RMSNorm backward", shape, {(3 * h_bytes + 2) * td + 4.0 * double(T)}, [=](BenchDevice& d) {
    const RmsNormBackward op{.dy = d.uniform(DType::bf16, {T, D}),
                             .h = d.uniform(residual, {T, D}),
                             .weight = d.uniform(DType::f32, {D}),
                             .rstd = d.uniform(DType::f32, {T}, 0.5, 1),
                             .dh = d.zeros(residual, {T, D}),
                             .dweight = d.zeros(DType::f32, {D})};
    return calls(d, &Ops::rms_norm_backward, op);
  });
}

void add_inner_norms(CaseList& list) {
  const int64_t T = list.T, R = list.w.R, N = list.w.N;
  const double t = double(T), p = t * double(R + 2 * N), tr = t * double(R), tn = t * double(N);
  const std::string shape = cat(T, " x ", R + 2 * N);
  list.add("norms of dt, B, C forward", shape, {4 * p + 2 * tr + 8 * tn + 12 * t}, [=](BenchDevice& d) {
    const SsmNormsForward op{.p = d.uniform(DType::f32, {T, R + 2 * N}),
                             .w_dt = d.uniform(DType::f32, {R}),
                             .w_b = d.uniform(DType::f32, {N}),
                             .w_c = d.uniform(DType::f32, {N}),
                             .dt = d.zeros(DType::bf16, {T, R}),
                             .b = d.zeros(DType::f32, {T, N}),
                             .c = d.zeros(DType::f32, {T, N}),
                             .rstd = d.zeros(DType::f32, {T, 3})};
    return calls(d, &Ops::ssm_norms_forward, op);
  });
  list.add("norms of dt, B, C backward", shape, {8 * p + 2 * tr + 8 * tn + 12 * t}, [=](BenchDevice& d) {
    const SsmNormsBackward op{.ddt = d.uniform(DType::bf16, {T, R}),
                              .db = d.uniform(DType::f32, {T, N}),
                              .dc = d.uniform(DType::f32, {T, N}),
                              .p = d.uniform(DType::f32, {T, R + 2 * N}),
                              .w_dt = d.uniform(DType::f32, {R}),
                              .w_b = d.uniform(DType::f32, {N}),
                              .w_c = d.uniform(DType::f32, {N}),
                              .rstd = d.uniform(DType::f32, {T, 3}, 0.5, 1),
                              .dp = d.zeros(DType::f32, {T, R + 2 * N}),
                              .dw_dt = d.zeros(DType::f32, {R}),
                              .dw_b = d.zeros(DType::f32, {N}),
                              .dw_c = d.zeros(DType::f32, {N})};
    return calls(d, &Ops::ssm_norms_backward, op);
  });
}

void add_swiglu(CaseList& list) {
  const int64_t T = list.T, F = list.w.F;
  const double tf = double(T) * double(F);
  list.add("SwiGLU forward", cat(T, " x ", F), {6 * tf, 0, tf}, [=](BenchDevice& d) {
    const SwigluForward op{d.uniform(DType::bf16, {T, 2 * F}), d.zeros(DType::bf16, {T, F})};
    return calls(d, &Ops::swiglu_forward, op);
  });
  list.add("SwiGLU backward", cat(T, " x ", F), {10 * tf, 0, tf}, [=](BenchDevice& d) {
    const SwigluBackward op{d.uniform(DType::bf16, {T, F}), d.uniform(DType::bf16, {T, 2 * F}),
                            d.zeros(DType::bf16, {T, 2 * F})};
    return calls(d, &Ops::swiglu_backward, op);
  });
}

void add_biases(CaseList& list) {
  const int64_t T = list.T, n = 2 * list.w.E;
  const double elements = double(T) * double(n);
  list.add("bias", cat(T, " x ", n), {4 * elements}, [=](BenchDevice& d) {
    const AddBias op{d.uniform(DType::bf16, {T, n}), d.zeros(DType::f32, {n})};
    return calls(d, &Ops::add_bias, op);
  });
  list.add("bias backward", cat(T, " x ", n), {2 * elements}, [=](BenchDevice& d) {
    const BiasBackward op{d.uniform(DType::bf16, {T, n}), d.zeros(DType::f32, {n})};
    return calls(d, &Ops::bias_backward, op);
  });
}

void add_copies(CaseList& list) {
  const int64_t T = list.T, D = list.w.D;
  const double td = double(T) * double(D);
  list.add("copy bf16 to fp32", cat(T, " x ", D), {6 * td}, [=](BenchDevice& d) {
    const ScaleCopy op{.x = d.uniform(DType::bf16, {T, D}), .y = d.zeros(DType::f32, {T, D})};
    return calls(d, &Ops::scale_copy, op);
  });
  list.add("add bf16 to fp32", cat(T, " x ", D), {10 * td}, [=](BenchDevice& d) {
    const ScaleCopy op{
        .x = d.uniform(DType::bf16, {T, D}), .y = d.zeros(DType::f32, {T, D}), .accumulate = true};
    return calls(d, &Ops::scale_copy, op);
  });
}

}  // namespace

void add_pointwise(CaseList& list) {
  add_rms_norms(list, DType::f32);
  add_rms_norms(list, DType::bf16);
  add_inner_norms(list);
  add_swiglu(list);
  add_biases(list);
  add_copies(list);
}

}  // namespace jambalaya::bench
