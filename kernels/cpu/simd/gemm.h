// Vector kernels of the room gemm: one table of function pointers per instruction set.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

struct GemmKernels {};

}  // namespace jambalaya
