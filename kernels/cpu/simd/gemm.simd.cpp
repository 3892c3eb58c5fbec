#include "kernels/cpu/simd/gemm.h"

#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {

extern const GemmKernels gemm_kernels;
const GemmKernels gemm_kernels{};

}  // namespace jambalaya::JAMBALAYA_NS
