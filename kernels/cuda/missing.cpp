// Ops that have no kernel yet.
#include "kernels/cuda/ops_cuda.h"

namespace jambalaya::cuda {
namespace {
[[noreturn]] void missing(const char* op) { throw Error(Exit::failed, cat("no CUDA kernel for ", op)); }
}  // namespace
void CudaOps::scan_backward(Context&, const ScanBackward&) { missing("scan_backward"); }
}  // namespace jambalaya::cuda
