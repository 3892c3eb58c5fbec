#include "model/placement.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "kernels/error.h"
#include "parallel/mesh.h"

namespace jambalaya {

namespace {

int64_t product(const std::vector<int64_t>& shape, size_t first = 0) {
  return std::accumulate(shape.begin() + long(first), shape.end(), int64_t(1), std::multiplies<>());
}

/// The cut of dimension tensor_dim of one block of a row.
Cut block_cut(const ParameterRow& row, const PlacementRanks& ranks) {
  const Placement& p = row.placement;
  const int64_t n = row.shape[size_t(p.tensor_dim)] / p.blocks;
  if (p.expert) return even_cut(n, ranks.expert_tensor, ranks.expert_tensors);
  const int sharers = copies(row, ranks);
  return even_cut(n, ranks.tensor / sharers, ranks.tensors / sharers);
}

void append_rectangles(const std::vector<int64_t>& shape, size_t dim, std::vector<int64_t> offset,
                       int64_t begin, int64_t end, int64_t at, std::vector<Rectangle>& out) {
  if (begin >= end) return;
  const auto add = [&](int64_t first, int64_t last, int64_t place) {
    Rectangle piece{offset, std::vector<int64_t>(dim, 1), place};
    piece.offset.push_back(first);
    piece.offset.resize(shape.size(), 0);
    piece.shape.push_back(last - first);
    piece.shape.insert(piece.shape.end(), shape.begin() + long(dim) + 1, shape.end());
    out.push_back(std::move(piece));
  };
  const int64_t row = product(shape, dim + 1);
  if (row == 1) return add(begin, end, at);
  const auto within = [&](int64_t index, int64_t first, int64_t last, int64_t place) {
    std::vector<int64_t> inner = offset;
    inner.push_back(index);
    append_rectangles(shape, dim + 1, std::move(inner), first, last, place, out);
  };
  const int64_t first = begin / row, last = end / row;  // `last` is not whole
  if (first == last) return within(first, begin % row, end % row, at);
  const int64_t head = (row - begin % row) % row;
  if (head) within(first, row - head, row, at);
  const int64_t whole = first + (head > 0);
  if (whole < last) add(whole, last, at + head);
  within(last, 0, end % row, at + last * row - begin);
}

}  // namespace

int64_t Rectangle::numel() const { return product(shape); }

PlacementRanks placement_of(const Layout& layout, int rank) {
  const Coordinates at = coordinates(layout, rank);
  // Neighbours share a copy, as in the mesh.
  const auto group = [](int rank_in_group, int ranks, int shards) {
    return ShardGroup{rank_in_group % shards, shards, rank_in_group / shards, ranks / shards};
  };
  return {
      .tensor = at.tensor,
      .tensors = layout.tensor,
      .expert = at.expert,
      .experts = layout.expert,
      .expert_tensor = at.expert_tensor,
      .expert_tensors = layout.expert_tensor,
      .sequence = layout.sequence,
      .dense = group(at.context + layout.context * at.data, token_ranks(layout), dense_shard_ranks(layout)),
      .expert_data = group(at.expert_data, expert_data_ranks(layout), expert_shard_ranks(layout)),
      .full = layout.sharding == Sharding::full};
}

PlacementRanks placement_of(Mesh& mesh) { return placement_of(mesh.layout(), mesh.rank()); }

const ShardGroup& shard_group(const ParameterRow& row, const PlacementRanks& ranks) {
  return row.placement.expert ? ranks.expert_data : ranks.dense;
}

Cut even_cut(int64_t n, int rank, int ranks) { return {n * rank / ranks, n * (rank + 1) / ranks}; }

std::vector<int64_t> local_shape(const ParameterRow& row, const PlacementRanks& ranks) {
  std::vector<int64_t> shape = row.shape;
  const Placement& p = row.placement;
  if (p.expert) shape[0] = even_cut(shape[0], ranks.expert, ranks.experts).size();
  if (p.tensor_dim >= 0) shape[size_t(p.tensor_dim)] = p.blocks * block_cut(row, ranks).size();
  return shape;
}

std::vector<Rectangle> rectangles(const std::vector<int64_t>& shape, int64_t begin, int64_t end) {
  JAMBALAYA_CHECK(!shape.empty() && 0 <= begin && end <= product(shape), "elements ", begin, " to ", end);
  std::vector<Rectangle> out;
  append_rectangles(shape, 0, {}, begin, end, 0, out);
  return out;
}

std::vector<Rectangle> pieces(const ParameterRow& row, const PlacementRanks& ranks, int64_t begin,
                              int64_t end) {
  const Placement& p = row.placement;
  std::vector<int64_t> shape = local_shape(row, ranks), origin(shape.size(), 0);
  if (p.expert) origin[0] = even_cut(row.shape[0], ranks.expert, ranks.experts).begin;
  std::vector<Rectangle> out;
  const auto add = [&](const std::vector<int64_t>& part, const std::vector<int64_t>& offset, int64_t first) {
    const int64_t from = std::max(begin, first), to = std::min(end, first + product(part));
    if (from >= to) return;
    for (Rectangle& piece : rectangles(part, from - first, to - first)) {
      for (size_t d = 0; d < offset.size(); d++) piece.offset[d] += offset[d];
      piece.at += from;
      out.push_back(std::move(piece));
    }
  };
  if (p.tensor_dim < 0) {
    add(shape, origin, 0);
    return out;
  }
  const size_t dim = size_t(p.tensor_dim);
  const Cut cut = block_cut(row, ranks);
  if (p.blocks == 1 || shape[dim] == row.shape[dim]) {
    origin[dim] = cut.begin;
    add(shape, origin, 0);
    return out;
  }
  // Cut blocks lie side by side here but not in the global tensor: each is a piece of its own, and each entry
  // of the dimension before them (the expert) has its own blocks.
  const int64_t outer =
      std::accumulate(shape.begin(), shape.begin() + long(dim), int64_t(1), std::multiplies<>());
  JAMBALAYA_CHECK(dim <= 1, row.name, ": blocks in dimension ", dim);
  std::vector<int64_t> part = shape;
  part[dim] = cut.size();
  if (dim == 1) part[0] = 1;
  int64_t at = 0;
  for (int64_t o = 0; o < outer; o++)
    for (int block = 0; block < p.blocks; block++) {
      std::vector<int64_t> offset = origin;
      if (dim == 1) offset[0] += o;
      offset[dim] = block * (row.shape[dim] / p.blocks) + cut.begin;
      add(part, offset, at);
      at += product(part);
    }
  return out;
}

std::vector<Rectangle> pieces(const ParameterRow& row, const PlacementRanks& ranks) {
  return pieces(row, ranks, 0, product(local_shape(row, ranks)));
}

std::vector<Stretch> stretches(const ParameterRow& row, const Rectangle& piece) {
  // Trailing dimensions that the piece spans whole are contiguous in both.
  size_t inner = piece.shape.size();
  while (inner > 1 && piece.shape[inner - 1] == row.shape[inner - 1]) inner--;
  const size_t dim = inner - 1;  // the run's outermost dimension
  const int64_t length = product(piece.shape, dim), count = piece.numel() / std::max<int64_t>(length, 1);
  std::vector<Stretch> out;
  for (int64_t i = 0; i < count; i++) {
    int64_t rest = i, global = piece.offset[dim] * product(row.shape, dim + 1);
    for (size_t d = dim; d-- > 0;) {
      global += (piece.offset[d] + rest % piece.shape[d]) * product(row.shape, d + 1);
      rest /= piece.shape[d];
    }
    out.push_back({global, piece.at + i * length, length});
  }
  return out;
}

int copies(const ParameterRow& row, const PlacementRanks& ranks) {
  const Placement& p = row.placement;
  if (p.expert) return 1;
  if (p.tensor_dim < 0) return ranks.tensors;
  if (p.kv_heads && p.kv_heads < ranks.tensors) return ranks.tensors / int(p.kv_heads);
  return 1;
}

bool first_copy(const ParameterRow& row, const PlacementRanks& ranks) {
  return ranks.tensor % copies(row, ranks) == 0;
}

bool summed_over_tensor_ranks(const ParameterRow& row, const PlacementRanks& ranks) {
  if (row.placement.expert || copies(row, ranks) == 1) return false;
  const SplitTokens split = row.placement.split_tokens;
  return row.placement.kv_heads > 0 || split == SplitTokens::always ||
         (split == SplitTokens::with_sequence && ranks.sequence);
}

}  // namespace jambalaya
