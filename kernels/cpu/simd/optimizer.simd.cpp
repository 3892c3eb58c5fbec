#include "kernels/cpu/simd/optimizer.h"

#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {

extern const OptimizerKernels optimizer_kernels;
const OptimizerKernels optimizer_kernels{};

}  // namespace jambalaya::JAMBALAYA_NS
