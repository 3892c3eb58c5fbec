// A stable sort of small whole numbers on the device, without atomics: the same bits every time.
#pragma once
#include "kernels/context.h"

namespace jambalaya::cuda {

struct SortedKeys {
  const int32_t* key;       ///< [n], rising
  const int32_t* position;  ///< [n]: where each key stood; rising among equal keys
};

/// Sorts the n < 2^31 keys, each in [0, limit). `keys` is used up. The results and some memory besides (12
/// bytes a key and a little) are taken from ctx.scratch: the caller holds an ArenaScope.
SortedKeys sort_keys(const Context& ctx, int32_t* keys, int64_t n, int64_t limit);

}  // namespace jambalaya::cuda
