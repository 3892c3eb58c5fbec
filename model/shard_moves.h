// How a sharded part moves: owned ranges to whole values, whole gradients to owned sums. These run on the
// communication thread, in its queue's context.
#pragma once
#include "model/parameters.h"
#include "parallel/communicator.h"

namespace jambalaya {

/// Writes the values of a part that the model reads to `to`, from the owned masters of all ranks of its shard
/// group. bf16 copies travel as such.
void gather_values(Context& ctx, const Parameters& parameters, int part, const PartMemory& to,
                   Communicator& shard);

/// Sums a part's gradients (whole, at `from`) over its shard group. With `accumulate` the sum of the owned
/// range is added to the owned gradients, else it replaces them; `from` is changed.
void reduce_gradients(Context& ctx, const Parameters& parameters, int part, const PartMemory& from,
                      Communicator& shard, bool accumulate);

/// Of a part's whole values as they are gathered.
int64_t gathered_bytes(const Part& part);

}  // namespace jambalaya
