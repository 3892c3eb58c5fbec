// Vector kernels of the room moe: one table of function pointers per instruction set.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

struct MoeKernels {};

}  // namespace jambalaya
