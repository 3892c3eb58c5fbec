// The door of the CUDA library: what kernels/cuda_library.cpp looks up after loading it.
#include "kernels/cuda_library.h"

#include "kernels/cuda/accelerator_cuda.h"
#include "kernels/cuda/platform.h"

extern "C" {
/// Read by the program that loads the library.
extern const jambalaya::CudaLibrary jambalaya_cuda_library;
const jambalaya::CudaLibrary jambalaya_cuda_library = {
    jambalaya::build_of_cuda_interface(), jambalaya::cuda::library_contents, jambalaya::cuda::count_devices,
    jambalaya::cuda::fits, jambalaya::cuda::open_accelerator};
}
