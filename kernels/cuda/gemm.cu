// Matrix products: shapes, and who computes them. One product goes to the vendor's library (products.h).
// Products of the experts go to kernels of our own, which read the rows per expert on the device
// (gemm_experts.h), or to the library where the host knows them and they are large.
#include "kernels/cuda/gemm_experts.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/products.h"

namespace jambalaya::cuda {
namespace {

/// m, n and k fit each other.
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

void check_experts(const GroupedGemm& g) {
  const bool weight_gradient = g.kind == ExpertKind::weight_gradient;
  JAMBALAYA_CHECK(g.w.rank == 3 && g.offsets.numel() == g.w.rows() + 1, "w ", g.w.describe(), " offsets ",
                  g.offsets.describe());
  JAMBALAYA_CHECK(g.a.rank == 2 && g.y.rank == 2 && g.a.rows() == g.y.rows(), "a ", g.a.describe(), ", y ",
                  g.y.describe());
  JAMBALAYA_CHECK(!weight_gradient || g.w.dtype == DType::f32, "gradients of parameters are f32, w is ",
                  g.w.describe());
  const Tensor& second = weight_gradient ? g.y : g.w;
  JAMBALAYA_CHECK(g.a.dtype == second.dtype && (g.a.dtype == DType::f32 || g.a.dtype == DType::bf16), "a ",
                  g.a.describe(), ", second operand ", second.describe());
  JAMBALAYA_CHECK(g.y.dtype == DType::f32 || g.y.dtype == DType::bf16, "y is ", g.y.describe());
  const bool forward = g.kind == ExpertKind::forward;
  JAMBALAYA_CHECK(g.a.columns() == g.w.shape[forward ? 2 : 1] && g.y.columns() == g.w.shape[forward ? 1 : 2],
                  "a ", g.a.describe(), ", w ", g.w.describe(), ", y ", g.y.describe());
}

/// Where the library's larger tiles (128 x 256) fill at least half of a large GPU for one expert, it wins by
/// its use of wgmma; below, products one after another leave the device idle, and all experts in one kernel
/// do not. By shapes alone: the mean rows of an expert, not what the router chose.
bool large_experts(const GroupedGemm& op) {
  constexpr int64_t kRows = 256, kElements = int64_t(64) * 128 * 256;
  const int64_t rows = op.a.rows() / std::max<int64_t>(1, op.w.rows());
  const int64_t elements = op.kind == ExpertKind::weight_gradient ? op.w.columns() : rows * op.y.columns();
  return rows >= kRows && elements >= kElements;
}

}  // namespace

ExpertProducts expert_products(const GroupedGemm& op) {
  const bool weight_gradient = op.kind == ExpertKind::weight_gradient;
  const Tensor &b = weight_gradient ? op.y : op.w, &c = weight_gradient ? op.w : op.y;
  ExpertProducts g{};
  g.a = op.a.data, g.b = b.data, g.c = c.data;
  g.a_stride = op.a.row_stride;
  g.b_stride = weight_gradient ? op.y.row_stride : op.w.shape[2];
  g.c_stride = weight_gradient ? op.w.shape[2] : op.y.row_stride;
  g.expert_stride = op.w.row_stride;
  g.offsets = op.offsets.ptr<int32_t>();
  g.experts = int(op.w.rows());
  g.m = weight_gradient ? op.w.shape[1] : 0;
  g.n = op.y.columns();
  g.p = weight_gradient ? 0 : op.a.columns();
  // Every expert's last tile may be a part of one; a tile has one row at least.
  const int64_t rows = op.a.rows(), most = rows / kExpertTile + g.experts;
  g.m_tiles = weight_gradient ? div_up(g.m, kExpertTile) : std::min(rows, most);
  g.n_tiles = div_up(g.n, kExpertTile);
  g.accumulate = weight_gradient || op.accumulate;
  g.pairs = g.c_stride % 2 == 0 && g.expert_stride % 2 == 0 &&
            reinterpret_cast<uintptr_t>(c.data) % uintptr_t(2 * size_of(c.dtype)) == 0;
  return g;
}

void CudaOps::gemm(Context& ctx, const Gemm& op) {
  check_product(op);
  if (op.c.rows() && op.c.columns()) products_->gemm(ctx, op);
}

void CudaOps::grouped_gemm(Context& ctx, const GroupedGemm& op) {
  check_experts(op);
  if (op.host_offsets && large_experts(op) && products_->experts(ctx, op)) return;
  (op.a.dtype == DType::bf16 ? start_experts_bf16 : start_experts_f32)(ctx, op);
}

}  // namespace jambalaya::cuda
