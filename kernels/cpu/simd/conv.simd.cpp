#include "kernels/cpu/simd/conv.h"

#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {

extern const ConvKernels conv_kernels;
const ConvKernels conv_kernels{};

}  // namespace jambalaya::JAMBALAYA_NS
