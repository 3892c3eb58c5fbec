// The accelerator on the CUDA runtime (accelerator_cuda.cpp).
#pragma once
#include <string>

#include "kernels/accelerator.h"

namespace jambalaya::cuda {

/// GPUs of this host; 0 with the reason in `why` where there is no driver or device.
int count_devices(std::string* why);
/// Throws Error(usage) for a device that cannot be used.
Accelerator* open_accelerator(int device);

}  // namespace jambalaya::cuda
