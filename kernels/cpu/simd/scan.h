// Vector kernels of the room scan: one table of function pointers per instruction set.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

struct ScanKernels {};

}  // namespace jambalaya
