// Boxes in plain memory, for readers that go through a checkpoint one tensor at a time.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "train/checkpoint/checkpoint.h"

namespace jambalaya {

/// The part of tensor `name` that begins at `offset` and is `shape` long, in packed memory at `data` (null: a
/// box whose values are made when they are written, see Box::fill).
inline Box box_at(std::string name, std::vector<int64_t> global_shape, std::vector<int64_t> offset,
                  const std::vector<int64_t>& shape, float* data) {
  JAMBALAYA_CHECK(!shape.empty() && shape.size() <= Tensor{}.shape.size(), name, ": ", shape.size(),
                  " dimensions");
  Tensor local = make_tensor(data, {1});
  local.rank = int(shape.size());
  std::copy(shape.begin(), shape.end(), local.shape.begin());
  local.row_stride = local.columns();
  return {std::move(name), std::move(global_shape), std::move(offset), local};
}
/// The same for a whole tensor.
inline Box whole_box(std::string name, const std::vector<int64_t>& shape, float* data) {
  return box_at(std::move(name), shape, std::vector<int64_t>(shape.size(), 0), shape, data);
}

}  // namespace jambalaya
