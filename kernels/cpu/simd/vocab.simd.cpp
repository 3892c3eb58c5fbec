#include "kernels/cpu/simd/vocab.h"

#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {

extern const VocabKernels vocab_kernels;
const VocabKernels vocab_kernels{};

}  // namespace jambalaya::JAMBALAYA_NS
