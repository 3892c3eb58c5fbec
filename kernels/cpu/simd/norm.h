// Vector kernels of the room norm: one table of function pointers per instruction set.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

struct NormKernels {};

}  // namespace jambalaya
