// Second stage of sums over rows: blocks leave partial sums, one row of them each, which are added here in
// their order. How many there are is a matter of shapes alone, so the same sums have the same bits on every
// GPU.
#pragma once
#include "kernels/context.h"

namespace jambalaya::cuda {

/// out[i] += sum over p < count of partial[p * stride + i], i < n; sums in fp64, rounded once. `name` is told
/// in errors. All device memory.
void add_partials(const Context& ctx, const char* name, const float* partial, int64_t count, int64_t stride,
                  float* out, int64_t n);

}  // namespace jambalaya::cuda
