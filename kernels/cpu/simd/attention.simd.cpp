#include "kernels/cpu/simd/attention.h"

#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {

extern const AttentionKernels attention_kernels;
const AttentionKernels attention_kernels{};

}  // namespace jambalaya::JAMBALAYA_NS
