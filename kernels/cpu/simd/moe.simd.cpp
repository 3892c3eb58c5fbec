#include "kernels/cpu/simd/moe.h"

#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {

extern const MoeKernels moe_kernels;
const MoeKernels moe_kernels{};

}  // namespace jambalaya::JAMBALAYA_NS
