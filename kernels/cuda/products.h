// Matrix products by the vendor's library, behind one door: cuBLASLt on the GPU (products_cublas.cpp), the
// CPU backend's in the emulator (tests/emulator). The ops gemm, grouped_gemm and head_loss go through it.
#pragma once
#include <memory>

#include "kernels/ops.h"

namespace jambalaya::cuda {

class Products {
 public:
  virtual ~Products() = default;
  /// As Ops::gemm: fp32 sums, any of the shapes may be 0. Enqueued on the context's stream; scratch memory
  /// comes from the context (at most 64 MiB, and f32 sums where f32 operands give a bf16 c). The same call
  /// gives the same bits, whatever was called before: one algorithm is kept for each shape.
  virtual void gemm(Context& ctx, const Gemm& op) = 0;
  /// As Ops::grouped_gemm with host_offsets: one product per expert, all by one algorithm that follows from
  /// shapes alone, so that a row's sums do not depend on how many rows came to its expert. False, and nothing
  /// is enqueued, where one algorithm cannot do that: f32 operands and a bf16 result, or the library refuses
  /// it for an expert with one row, with all rows, or with as many as an expert here has. (The last is the
  /// one answer that is not of shapes alone, for a library that takes both ends and refuses a count between.)
  [[nodiscard]] virtual bool experts(Context& ctx, const GroupedGemm& op) = 0;
  virtual const char* name() const = 0;  ///< "cuBLASLt 13.1"
};
std::unique_ptr<Products> make_products(const AcceleratorProperties& properties);

/// The product of expert x over its rows [begin, end).
inline Gemm expert_product(const GroupedGemm& g, int64_t x, int64_t begin, int64_t end) {
  using Kind = GroupedGemm::Kind;
  const Tensor a = g.a.slice_rows(begin, end), y = g.y.slice_rows(begin, end), w = g.w.at(x);
  if (g.kind == Kind::weight_gradient)
    return {.a = a, .b = y, .c = w, .transpose_a = true, .accumulate = true};
  return {.a = a, .b = w, .c = y, .transpose_b = g.kind == Kind::forward, .accumulate = g.accumulate};
}

}  // namespace jambalaya::cuda
