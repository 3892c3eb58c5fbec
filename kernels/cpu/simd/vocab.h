// Vector kernels of the room vocab: one table of function pointers per instruction set.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

struct VocabKernels {};

}  // namespace jambalaya
