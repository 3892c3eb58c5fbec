#include "model/tensor_sums.h"

#include <algorithm>

#include "kernels/transfer.h"

namespace jambalaya {

namespace {
constexpr int64_t kAddressSpace = int64_t(1) << 40;  // more than any unit
}

TensorSums::TensorSums(Parameters& parameters, Communicator& tensor)
    : parameters_(parameters),
      tensor_(tensor),
      arena_("sums over tensor ranks", kAddressSpace, parameters.accelerator()) {
  const PlacementRanks& ranks = parameters.ranks();
  JAMBALAYA_CHECK(ranks.tensors == tensor.size() && ranks.tensor == tensor.rank());
  int64_t largest = 0;
  for (size_t i = 0; i < parameters.table().size(); i++) {
    const ParameterRow& row = parameters.table()[i];
    if (!summed_over_tensor_ranks(row, ranks)) continue;
    const size_t unit = size_t(row.layer + 1);
    if (units_.size() <= unit) units_.resize(unit + 1);
    Unit& u = units_[unit];
    const int sharers = copies(row, ranks), parts = ranks.tensors / sharers;
    const int64_t size = row.numel() / parts;  // kv heads divide; other such rows are whole
    u.entries.push_back({int(i), u.size + size * (ranks.tensor / sharers), size});
    u.size += size * parts;
    largest = std::max(largest, u.size);
  }
  buffer_ = arena_.tensor(DType::f32, {largest}, "gradients");
}

void TensorSums::run(int unit) {
  if (size_t(unit) >= units_.size() || units_[size_t(unit)].size == 0) return;
  const Unit& u = units_[size_t(unit)];
  const Context ctx = transfer_context(parameters_.accelerator());
  const Tensor buffer = buffer_.slice_rows(0, u.size);
  auto place = [&](const Entry& e) { return buffer.slice_rows(e.at, e.at + e.size); };
  auto flat = [&](const Entry& e) {
    const Tensor g = parameters_.gradient(e.row);
    JAMBALAYA_CHECK(g.numel() == e.size && g.packed(), parameters_.table()[size_t(e.row)].name);
    return make_tensor(g.data, g.dtype, {e.size}, g.device);
  };
  clear(ctx, buffer);
  for (const Entry& e : u.entries) copy(ctx, flat(e), place(e));
  tensor_.all_reduce(buffer);
  for (const Entry& e : u.entries) copy(ctx, place(e), flat(e));
}

}  // namespace jambalaya
