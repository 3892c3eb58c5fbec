// Matrix products by the vendor's library, behind one door: cuBLASLt on the GPU (products_cublas.cpp), plain
// loops in the emulator (tests/emulator). The ops gemm, grouped_gemm and head_loss go through it.
#pragma once
#include <memory>

#include "kernels/ops.h"

namespace jambalaya::cuda {

class Products {
 public:
  virtual ~Products() = default;
  /// As Ops::gemm: fp32 sums, any of the shapes may be 0. Enqueued on the context's stream. The same call
  /// gives the same bits, whatever was called before (one algorithm is kept for each shape).
  virtual void gemm(Context& ctx, const Gemm& op) = 0;
  virtual const char* name() const = 0;  ///< "cuBLASLt 13.1"
};
std::unique_ptr<Products> make_products(const AcceleratorProperties& properties);

}  // namespace jambalaya::cuda
