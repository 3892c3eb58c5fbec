#include "kernels/cuda/accelerator_cuda.h"
#include "kernels/cuda/launch.h"

namespace jambalaya::cuda {
namespace {
__global__ void any_kernel() {}
}  // namespace

bool has_kernels_for_this_device() {
  cudaFuncAttributes attributes;
  const cudaError_t code = cudaFuncGetAttributes(&attributes, any_kernel);
  if (code == cudaSuccess) return true;
  cudaGetLastError();
  if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorInvalidDeviceFunction) return false;
  check(code, "cudaFuncGetAttributes");
  return false;
}

}  // namespace jambalaya::cuda
