#include "model/shard_moves.h"

#include <algorithm>

namespace jambalaya {

void gather_values(const Parameters& parameters, int index, const PartMemory& to, Communicator& shard) {
  const Part& part = parameters.parts()[size_t(index)];
  const int64_t n = part.owned_size(), mine = n * shard.rank();
  JAMBALAYA_CHECK(shard.size() == part.shards);
  const float* owned = parameters.owned_master().ptr<float>() + part.owned;
  if (part.value) {
    std::copy_n(owned, n, to.value + mine);
    shard.all_gather(make_tensor(to.value + mine, {n}), make_tensor(to.value, {part.size}));
    if (part.compute) std::transform(to.value, to.value + part.size, to.compute, to_bf16);
    return;
  }
  std::transform(owned, owned + n, to.compute + mine, to_bf16);
  shard.all_gather(make_tensor(to.compute + mine, {n}), make_tensor(to.compute, {part.size}));
}

int64_t gathered_bytes(const Part& part) {
  return part.size * int64_t(part.value ? sizeof(float) : sizeof(bf16));
}

void reduce_gradients(const Parameters& parameters, int index, const PartMemory& from, Communicator& shard,
                      bool accumulate) {
  const Part& part = parameters.parts()[size_t(index)];
  const int64_t n = part.owned_size();
  JAMBALAYA_CHECK(shard.size() == part.shards);
  float* const owned = parameters.owned_gradient().ptr<float>() + part.owned;
  const Tensor whole = make_tensor(from.gradient, {part.size});
  if (!accumulate) return shard.reduce_scatter(whole, make_tensor(owned, {n}));
  float* const mine = from.gradient + n * shard.rank();
  shard.reduce_scatter(whole, make_tensor(mine, {n}));
  for (int64_t i = 0; i < n; i++) owned[i] += mine[i];
}

}  // namespace jambalaya
