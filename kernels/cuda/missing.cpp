// Ops that have no kernel yet.
#include "kernels/cuda/ops_cuda.h"

namespace jambalaya::cuda {
namespace {
[[noreturn]] void missing(const char* op) { throw Error(Exit::failed, cat("no CUDA kernel for ", op)); }
}  // namespace
void CudaOps::grouped_gemm(Context&, const GroupedGemm&) { missing("grouped_gemm"); }
void CudaOps::conv_forward(Context&, const ConvForward&) { missing("conv_forward"); }
void CudaOps::conv_backward(Context&, const ConvBackward&) { missing("conv_backward"); }
void CudaOps::scan_forward(Context&, const ScanForward&) { missing("scan_forward"); }
void CudaOps::scan_backward(Context&, const ScanBackward&) { missing("scan_backward"); }
void CudaOps::scan_carry_forward(Context&, const ScanCarryForward&) { missing("scan_carry_forward"); }
void CudaOps::scan_carry_backward(Context&, const ScanCarryBackward&) { missing("scan_carry_backward"); }
void CudaOps::router_forward(Context&, const RouterForward&) { missing("router_forward"); }
void CudaOps::router_backward(Context&, const RouterBackward&) { missing("router_backward"); }
void CudaOps::balance_loss(Context&, const BalanceLoss&) { missing("balance_loss"); }
void CudaOps::sort_by_expert(Context&, const SortByExpert&) { missing("sort_by_expert"); }
void CudaOps::gather_rows(Context&, const GatherRows&) { missing("gather_rows"); }
void CudaOps::gather_rows_backward(Context&, const GatherRowsBackward&) { missing("gather_rows_backward"); }
void CudaOps::combine_forward(Context&, const CombineForward&) { missing("combine_forward"); }
void CudaOps::combine_backward(Context&, const CombineBackward&) { missing("combine_backward"); }
}  // namespace jambalaya::cuda
