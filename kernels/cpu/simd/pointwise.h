// Vector kernels of the room pointwise: one table of function pointers per instruction set.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

struct PointwiseKernels {};

}  // namespace jambalaya
