// Which part of a global tensor a rank holds. Pure functions of a table row and of where the rank stands: the
// model, the starting values, checkpoints and imports all ask here.
#pragma once
#include <cstdint>
#include <vector>

#include "model/table.h"
#include "parallel/mesh.h"

namespace jambalaya {

/// A reduction group (ranks that hold the same tensors and saw other tokens) is size x replicas ranks: each
/// of `size` ranks owns a part of every tensor, `replicas` ranks own the same part.
struct ShardGroup {
  int rank = 0, size = 1, replica = 0, replicas = 1;
};

/// Where a rank stands, as far as tensors are concerned.
struct PlacementRanks {
  int tensor = 0, tensors = 1;                ///< its number, and how many there are
  int expert = 0, experts = 1;                ///< expert-parallel ranks
  int expert_tensor = 0, expert_tensors = 1;  ///< ranks that share an expert
  bool sequence = true;  ///< tensor ranks split the tokens of the residual stream (with tensors > 1)
  ShardGroup dense, expert_data;
  bool full = false;  ///< with shards: tensors are whole only while they are borrowed
};

/// Where a rank of a layout (data filled in) or this rank of a mesh stands.
PlacementRanks placement_of(const Layout& layout, int rank);
PlacementRanks placement_of(Mesh& mesh);

/// The reduction group of a row.
const ShardGroup& shard_group(const ParameterRow& row, const PlacementRanks& ranks);

/// Elements [begin, end) of n that rank r of s holds: sizes need not divide.
struct Cut {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};
Cut even_cut(int64_t n, int rank, int ranks);

/// Shape of the part of a row that a rank computes with (before sharding).
std::vector<int64_t> local_shape(const ParameterRow& row, const PlacementRanks& ranks);

/// A rectangle of a global tensor that lies in one stretch, row-major, in the local row.
struct Rectangle {
  std::vector<int64_t> offset, shape;  ///< in the global tensor
  int64_t at;                          ///< element of the local row where it begins
  int64_t numel() const;
};
/// Elements [begin, end) of the local row as pieces, in the order of their places there.
std::vector<Rectangle> pieces(const ParameterRow& row, const PlacementRanks& ranks, int64_t begin,
                              int64_t end);
/// The whole local row as pieces.
std::vector<Rectangle> pieces(const ParameterRow& row, const PlacementRanks& ranks);

/// Elements [begin, end) of a row-major array as rectangles, at most 2 rank - 1 of them, in order. `at`
/// counts from `begin`.
std::vector<Rectangle> rectangles(const std::vector<int64_t>& shape, int64_t begin, int64_t end);

/// A stretch that is contiguous both in the global tensor and in the local row.
struct Stretch {
  int64_t global, local, count;
};
std::vector<Stretch> stretches(const ParameterRow& row, const Rectangle& piece);

/// How many tensor ranks hold the same elements of this row, and whether this rank is the first of them.
int copies(const ParameterRow& row, const PlacementRanks& ranks);
bool first_copy(const ParameterRow& row, const PlacementRanks& ranks);
/// Whether tensor ranks hold partial sums of the row's gradient, which must be added: copies that saw other
/// tokens (split by sequence parallelism, router) or other queries (copied key/value heads).
bool summed_over_tensor_ranks(const ParameterRow& row, const PlacementRanks& ranks);

}  // namespace jambalaya
