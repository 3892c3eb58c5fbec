// What attention_cudnn.cpp needs of CUDA's run time beside the emulated device, which has it under C++ names.
#include "kernels/cuda/launch.h"

extern "C" cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

namespace jambalaya::cuda {

void check(cudaError_t code, const char* what) {
  if (code != cudaSuccess) throw Error(Exit::failed, what);
}

}  // namespace jambalaya::cuda
