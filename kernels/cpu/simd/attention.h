// Vector kernels of the room attention: one table of function pointers per instruction set.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

struct AttentionKernels {};

}  // namespace jambalaya
