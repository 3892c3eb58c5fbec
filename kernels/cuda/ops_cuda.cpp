#include "kernels/cuda/ops_cuda.h"

#include <cstdlib>
#include <cstring>

#include "kernels/cuda/attention_library.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/products.h"

namespace jambalaya::cuda {

void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  throw Error(Exit::failed,
              cat("CUDA: ", what, ": ", cudaGetErrorName(code), " (", cudaGetErrorString(code), ")",
                  blocking() ? "" : "; an earlier kernel may be the cause: JAMBALAYA_CUDA_BLOCKING=1 tells"));
}

bool blocking() {
  static const bool on = [] {
    const char* value = std::getenv("JAMBALAYA_CUDA_BLOCKING");
    return value && std::strcmp(value, "0") != 0;
  }();
  return on;
}

CudaOps::CudaOps(const AcceleratorProperties& properties)
    : products_(make_products(properties)),
      attention_(make_attention_library(properties)),
      device_name_(properties.name) {}
CudaOps::~CudaOps() = default;

const char* CudaOps::name() const {
  std::lock_guard lock(mutex_);
  return names_
      .insert(cat("cuda (", device_name_, "; products: ", products_->name(),
                  "; attention: ", attention_->status(), ")"))
      .first->c_str();
}

}  // namespace jambalaya::cuda
