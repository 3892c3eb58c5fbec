#include "kernels/cpu/simd/norm.h"

#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {

extern const NormKernels norm_kernels;
const NormKernels norm_kernels{};

}  // namespace jambalaya::JAMBALAYA_NS
