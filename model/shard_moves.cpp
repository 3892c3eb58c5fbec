#include "model/shard_moves.h"

#include "kernels/ops.h"
#include "kernels/transfer.h"

namespace jambalaya {

void gather_values(Context& ctx, const Parameters& parameters, int index, const PartMemory& to,
                   Communicator& shard) {
  const Part& part = parameters.parts()[size_t(index)];
  const int64_t n = part.owned_size(), mine = n * shard.rank();
  JAMBALAYA_CHECK(shard.size() == part.shards);
  const Tensor owned = parameters.owned_master().slice_rows(part.owned, part.owned + n);
  const Tensor values = make_tensor(to.value, DType::f32, {part.size}, parameters.device()),
               copies = make_tensor(to.compute, DType::bf16, {part.size}, parameters.device());
  if (part.value) {
    const Tensor own = values.slice_rows(mine, mine + n);
    copy(ctx, owned, own);
    shard.all_gather(own, values);
    if (part.compute) ctx.ops->scale_copy(ctx, {.x = values, .y = copies});
    return;
  }
  const Tensor own = copies.slice_rows(mine, mine + n);
  ctx.ops->scale_copy(ctx, {.x = owned, .y = own});
  shard.all_gather(own, copies);
}

int64_t gathered_bytes(const Part& part) {
  return part.size * int64_t(part.value ? sizeof(float) : sizeof(bf16));
}

void reduce_gradients(Context& ctx, const Parameters& parameters, int index, const PartMemory& from,
                      Communicator& shard, bool accumulate) {
  const Part& part = parameters.parts()[size_t(index)];
  const int64_t n = part.owned_size(), first = n * shard.rank();
  JAMBALAYA_CHECK(shard.size() == part.shards);
  const Tensor owned = parameters.owned_gradient().slice_rows(part.owned, part.owned + n),
               whole = make_tensor(from.gradient, DType::f32, {part.size}, parameters.device());
  if (!accumulate) return shard.reduce_scatter(whole, owned);
  const Tensor mine = whole.slice_rows(first, first + n);
  shard.reduce_scatter(whole, mine);
  ctx.ops->scale_copy(ctx, {.x = mine, .y = owned, .accumulate = true});
}

}  // namespace jambalaya
