#include "kernels/cpu/simd/pointwise.h"

#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {

extern const PointwiseKernels pointwise_kernels;
const PointwiseKernels pointwise_kernels{};

}  // namespace jambalaya::JAMBALAYA_NS
