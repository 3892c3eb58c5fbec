// Finds and loads the CUDA library (libjambalaya_cuda.so), which holds the GPU backend.
#pragma once
#include <memory>
#include <string>

#include "kernels/accelerator.h"

namespace jambalaya {

/// Opens GPU number `device` of this host. The library is looked for at JAMBALAYA_CUDA_LIBRARY, beside the
/// program, and in ../lib/jambalaya from there. Throws Error(usage) when there is no library, no driver, no
/// such device, or a library of another build, saying which and what to do.
std::unique_ptr<Accelerator> open_cuda(int device);
/// GPUs of this host; 0 without library, driver or device. `why` tells the reason for 0.
int cuda_devices(std::string* why = nullptr);
/// Whether this build's kernels run on GPU `device`, one of those that cuda_devices counts; `why` tells why
/// they do not. Throws Error(failed) when the GPU does not answer.
bool cuda_fits(int device, std::string* why);
/// "kernels for compute capability 9.0; attention by ..."; "" without a library.
std::string cuda_library_contents();

/// What the library exports under the name "jambalaya_cuda_library".
struct CudaLibrary {
  const char* build;  ///< must equal build_of_cuda_interface() of the program
  const char* (*contents)();
  int (*devices)(std::string* why);
  bool (*fits)(int device, std::string* why);  ///< throws Error
  Accelerator* (*open)(int device);            ///< throws Error
};
/// Changes with the interface and the compiler, so that a library of another build is refused.
const char* build_of_cuda_interface();

}  // namespace jambalaya
