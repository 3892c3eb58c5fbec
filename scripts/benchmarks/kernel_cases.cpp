#include "scripts/benchmarks/kernel_cases.h"

namespace jambalaya::bench {

CaseList::CaseList(const Widths& widths, int64_t tokens, int64_t document_length)
    : w(widths),
      T(tokens),
      length(document_length),
      documents_(std::make_shared<DocumentsBuffer>(std::vector<int64_t>(size_t(T / length), length))) {}

void CaseList::product(const std::string& name, int64_t m, int64_t n, int64_t k, DType operands,
                       DType result) {
  const double bytes = double(size_of(operands)) * double(n * k + m * k) + double(size_of(result) * m * n),
               multiplications = double(m) * double(n) * double(k);
  // fp32 operands are multiplied one by one, by the lanes.
  const Work work =
      operands == DType::bf16 ? Work{bytes, 2 * multiplications} : Work{bytes, 0, 0, multiplications};
  add(name, cat(m, " x ", n, " x ", k), work, [=](BenchDevice& d) {
    const Gemm op{.a = d.uniform(operands, {m, k}),
                  .b = d.uniform(operands, {n, k}),
                  .c = d.zeros(result, {m, n}),
                  .transpose_b = true};
    return calls(d, &Ops::gemm, op);
  });
}

void CaseList::input_gradient(const std::string& name, int64_t m, int64_t n, int64_t k) {
  const Work work{2.0 * double(m * n + n * k + m * k), 2.0 * double(m) * double(n) * double(k)};
  add(name + ", input gradient", cat(m, " x ", k, " x ", n), work, [=](BenchDevice& d) {
    const Gemm op{.a = d.uniform(DType::bf16, {m, n}),
                  .b = d.uniform(DType::bf16, {n, k}),
                  .c = d.zeros(DType::bf16, {m, k})};
    return calls(d, &Ops::gemm, op);
  });
}

void CaseList::weight_gradient(const std::string& name, int64_t m, int64_t n, int64_t k) {
  const Work work{2.0 * double(m * n + m * k) + 8.0 * double(n * k), 2.0 * double(m) * double(n) * double(k)};
  add(name + ", weight gradient", cat(n, " x ", k, " x ", m), work, [=](BenchDevice& d) {
    const Gemm op{.a = d.uniform(DType::bf16, {m, n}),
                  .b = d.uniform(DType::bf16, {m, k}),
                  .c = d.zeros(DType::f32, {n, k}),
                  .transpose_a = true,
                  .accumulate = true};
    return calls(d, &Ops::gemm, op);
  });
}

std::vector<KernelCase> kernel_cases(const Widths& widths, int64_t tokens, int64_t length) {
  const auto list = std::make_shared<CaseList>(widths, tokens, length);
  add_products(*list);
  add_state_space(*list);
  add_attention(*list);
  add_pointwise(*list);
  add_experts(*list);
  add_vocabulary(*list);
  add_optimizer(*list);
  add_generation(*list);
  std::vector<KernelCase> cases = list->take();
  for (KernelCase& c : cases)  // what is returned refers to the list
    c.prepare = [list, prepare = c.prepare](BenchDevice& device) { return prepare(device); };
  return cases;
}

}  // namespace jambalaya::bench
