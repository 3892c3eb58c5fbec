// Matrix products: the vendor's library, reached through products.h.
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/products.h"

namespace jambalaya::cuda {
namespace {

/// m, n and k fit each other; the messages are the CPU backend's.
void check_product(const Gemm& g) {
  JAMBALAYA_CHECK(g.a.rank == 2 && g.b.rank == 2 && g.c.rank == 2, g.a.describe(), " ", g.b.describe(), " ",
                  g.c.describe());
  JAMBALAYA_CHECK(g.a.dtype == g.b.dtype && (g.a.dtype == DType::f32 || g.a.dtype == DType::bf16), "a ",
                  g.a.describe(), " b ", g.b.describe());
  JAMBALAYA_CHECK(g.c.dtype == DType::f32 || g.c.dtype == DType::bf16, "c is ", g.c.describe());
  const int64_t k = g.transpose_a ? g.a.rows() : g.a.columns();
  JAMBALAYA_CHECK((g.transpose_a ? g.a.columns() : g.a.rows()) == g.c.rows() &&
                      (g.transpose_b ? g.b.columns() : g.b.rows()) == k &&
                      (g.transpose_b ? g.b.rows() : g.b.columns()) == g.c.columns(),
                  "a ", g.a.describe(), g.transpose_a ? " transposed" : "", ", b ", g.b.describe(),
                  g.transpose_b ? " transposed" : "", ", c ", g.c.describe());
}

}  // namespace

void CudaOps::gemm(Context& ctx, const Gemm& op) {
  check_product(op);
  if (op.c.rows() && op.c.columns()) products_->gemm(ctx, op);
}

}  // namespace jambalaya::cuda
