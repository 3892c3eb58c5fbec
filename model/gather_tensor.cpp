#include "model/gather_tensor.h"

#include <algorithm>

#include "kernels/transfer.h"

namespace jambalaya {

std::vector<float> gather_tensor(const Parameters& parameters, const Tensor& owned, int row,
                                 Communicator& world) {
  const ParameterRow& r = parameters.table()[size_t(row)];
  const PlacementRanks& ranks = parameters.ranks();
  std::vector<float> whole(size_t(r.numel()), 0.0f);
  // Of all holders of an element one brings it; the others add zero.
  if (first_copy(r, ranks) && shard_group(r, ranks).replica == 0) {
    const Context ctx = transfer_context(parameters.accelerator());
    for (const OwnedSlice& slice : parameters.owned()) {
      if (slice.row != row) continue;
      const std::vector<float> values =
          to_host<float>(ctx, owned.slice_rows(slice.at, slice.at + slice.end - slice.begin));
      const float* const from = values.data() - slice.begin;
      for (const Rectangle& piece : pieces(r, ranks, slice.begin, slice.end))
        for (const Stretch& s : stretches(r, piece))
          std::copy_n(from + s.local, s.count, whole.begin() + s.global);
    }
  }
  if (world.size() > 1) world.all_reduce(make_tensor(whole.data(), {r.numel()}));
  return whole;
}

}  // namespace jambalaya
