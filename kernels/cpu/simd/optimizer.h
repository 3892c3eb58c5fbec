// Vector kernels of the room optimizer: one table of function pointers per instruction set.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

struct OptimizerKernels {};

}  // namespace jambalaya
