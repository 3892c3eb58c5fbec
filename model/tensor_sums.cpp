#include "model/tensor_sums.h"

#include <algorithm>

namespace jambalaya {

TensorSums::TensorSums(Parameters& parameters, Communicator& tensor)
    : parameters_(parameters), tensor_(tensor) {
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
  buffer_.resize(size_t(largest));
}

void TensorSums::run(int unit) {
  if (size_t(unit) >= units_.size() || units_[size_t(unit)].size == 0) return;
  const Unit& u = units_[size_t(unit)];
  std::fill_n(buffer_.begin(), u.size, 0.0f);
  for (const Entry& e : u.entries) {
    const Tensor g = parameters_.gradient(e.row);
    JAMBALAYA_CHECK(g.numel() == e.size, parameters_.table()[size_t(e.row)].name);
    std::copy_n(g.ptr<float>(), e.size, buffer_.begin() + e.at);
  }
  tensor_.all_reduce(make_tensor(buffer_.data(), {u.size}));
  for (const Entry& e : u.entries)
    std::copy_n(buffer_.begin() + e.at, e.size, parameters_.gradient(e.row).ptr<float>());
}

}  // namespace jambalaya
