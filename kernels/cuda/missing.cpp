// Ops that have no kernel yet.
#include "kernels/cuda/ops_cuda.h"

namespace jambalaya::cuda {
namespace {
[[noreturn]] void missing(const char* op) { throw Error(Exit::failed, cat("no CUDA kernel for ", op)); }
}  // namespace
void CudaOps::embedding_forward(Context&, const EmbeddingForward&) { missing("embedding_forward"); }
void CudaOps::embedding_backward(Context&, const EmbeddingBackward&) { missing("embedding_backward"); }
void CudaOps::head_loss(Context&, const HeadLoss&) { missing("head_loss"); }
void CudaOps::rms_norm_forward(Context&, const RmsNormForward&) { missing("rms_norm_forward"); }
void CudaOps::rms_norm_backward(Context&, const RmsNormBackward&) { missing("rms_norm_backward"); }
void CudaOps::ssm_norms_forward(Context&, const SsmNormsForward&) { missing("ssm_norms_forward"); }
void CudaOps::ssm_norms_backward(Context&, const SsmNormsBackward&) { missing("ssm_norms_backward"); }
void CudaOps::swiglu_forward(Context&, const SwigluForward&) { missing("swiglu_forward"); }
void CudaOps::swiglu_backward(Context&, const SwigluBackward&) { missing("swiglu_backward"); }
void CudaOps::multiply_add(Context&, const MultiplyAdd&) { missing("multiply_add"); }
void CudaOps::add_bias(Context&, const AddBias&) { missing("add_bias"); }
void CudaOps::bias_backward(Context&, const BiasBackward&) { missing("bias_backward"); }
void CudaOps::sum_squares(Context&, const SumSquares&) { missing("sum_squares"); }
void CudaOps::adamw(Context&, const AdamW&) { missing("adamw"); }
}  // namespace jambalaya::cuda
