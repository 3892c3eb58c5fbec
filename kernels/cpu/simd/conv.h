// Vector kernels of the room conv: one table of function pointers per instruction set.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

struct ConvKernels {};

}  // namespace jambalaya
