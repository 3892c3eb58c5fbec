// The accelerator on the CUDA runtime (accelerator_cuda.cpp).
#pragma once
#include <string>

#include "kernels/accelerator.h"

namespace jambalaya::cuda {

/// GPUs of this host; 0 with the reason in `why` where there is no driver or device.
int count_devices(std::string* why);
/// Whether this library's kernels run on the device, or why not. Throws Error(failed) when it does not
/// answer.
bool fits(int device, std::string* why);
/// Throws Error(usage) for a device that does not fit.
Accelerator* open_accelerator(int device);
/// The library was compiled for the calling thread's device, or holds PTX that the driver can compile for it.
bool has_kernels_for_this_device();

}  // namespace jambalaya::cuda
