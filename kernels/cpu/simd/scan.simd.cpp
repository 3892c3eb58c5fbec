#include "kernels/cpu/simd/scan.h"

#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {

extern const ScanKernels scan_kernels;
const ScanKernels scan_kernels{};

}  // namespace jambalaya::JAMBALAYA_NS
