// Matrix products: shapes, and who computes them. One product goes to the vendor's library (products.h).
// Products of the experts go to kernels of our own, which read the rows per expert on the device
// (gemm_experts.h), or to the library where the host knows them and they are large.
#include "kernels/cuda/gemm_experts.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/products.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

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
  check_op(op);
  if (op.c.rows() && op.c.columns()) products_->gemm(ctx, op);
}

void CudaOps::grouped_gemm(Context& ctx, const GroupedGemm& op) {
  check_op(op);
  if (op.host_offsets && large_experts(op) && products_->experts(ctx, op)) return;
  (op.a.dtype == DType::bf16 ? start_experts_bf16 : start_experts_f32)(ctx, op);
}

}  // namespace jambalaya::cuda
