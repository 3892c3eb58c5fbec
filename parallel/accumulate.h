// Sums in rank order.
#pragma once
#include <cstdint>
#include <vector>

#include "parallel/communicator.h"

namespace jambalaya {

/// out[i] <- parts[0][i] op parts[1][i] op ..., in this order. Integers and fp32, fp64 in their own type;
/// bf16 in fp32, rounded once at the end. `out` may be one of the parts.
void accumulate(DType dtype, Reduce op, const std::vector<const void*>& parts, void* out, int64_t n);

}  // namespace jambalaya
