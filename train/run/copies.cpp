#include "train/run/copies.h"

#include <xxhash.h>

#include <algorithm>
#include <map>

#include "train/checkpoint/box_values.h"

namespace jambalaya {

namespace {

constexpr int64_t kLine =
    16;  // elements: owned ranges begin and end at lines of their rows (model/parts.cpp)

/// Sum over lines of their hashes, each with its place for a seed. Ranks that share a copy may cut it
/// differently from those that share another one; the sum of what they own is the same.
uint64_t hash_of(const float* values, int64_t begin, int64_t end) {
  JAMBALAYA_CHECK(begin % kLine == 0, "an owned range begins at element ", begin);
  uint64_t sum = 0;
  for (int64_t at = begin; at < end; at += kLine)
    sum += XXH3_64bits_withSeed(values + at - begin, size_t(std::min(kLine, end - at)) * 4, uint64_t(at));
  return sum;
}

/// Equal for ranks whose local rows are the same elements of the tensor.
int64_t region_of(const ParameterRow& row, const PlacementRanks& ranks) {
  std::vector<int64_t> corners;
  for (const Rectangle& piece : pieces(row, ranks)) {
    corners.insert(corners.end(), piece.offset.begin(), piece.offset.end());
    corners.insert(corners.end(), piece.shape.begin(), piece.shape.end());
  }
  return int64_t(XXH3_64bits(corners.data(), corners.size() * sizeof corners[0]));
}

/// Equal for ranks that share one copy: a shard group.
int64_t copy_of(bool expert, const PlacementRanks& ranks) {
  const int place = expert ? ranks.expert * ranks.expert_tensors + ranks.expert_tensor : ranks.tensor;
  return int64_t(place) << 32 | (expert ? ranks.expert_data : ranks.dense).replica;
}

struct Copy {
  uint64_t hash = 0;
  std::vector<int> ranks;
};

std::string list_of(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); i++) text += cat(i ? ", " : "", ranks[i]);
  return text;
}

/// What a rank tells: the copies that it takes part in, then region and hash of each row.
struct Told {
  const int64_t* at;
  int64_t copy(bool expert) const { return at[expert]; }
  int64_t region(size_t row) const { return at[2 + 2 * row]; }
  uint64_t hash(size_t row) const { return uint64_t(at[3 + 2 * row]); }
};

/// The same of a slice of the masters, wherever they lie.
uint64_t hash_of(const Parameters& parameters, const OwnedSlice& slice, const PieceMemory& staging) {
  const Tensor masters = parameters.owned_master();
  if (!parameters.accelerator()) return hash_of(masters.ptr<float>() + slice.at, slice.begin, slice.end);
  const Context ctx = transfer_context(parameters.accelerator());
  uint64_t sum = 0;
  for (int64_t begin = slice.begin; begin < slice.end; begin += PieceMemory::kElements) {
    const int64_t n = std::min(PieceMemory::kElements, slice.end - begin),
                  at = slice.at + begin - slice.begin;
    copy(ctx, masters.slice_rows(at, at + n), make_tensor(staging.data(), {n}));
    synchronize(ctx);
    sum += hash_of(staging.data(), begin, begin + n);
  }
  return sum;
}

std::vector<int64_t> tell(const Parameters& parameters) {
  const std::vector<ParameterRow>& table = parameters.table();
  std::vector<int64_t> own{copy_of(false, parameters.ranks()), copy_of(true, parameters.ranks())};
  for (const ParameterRow& row : table) {
    own.push_back(region_of(row, parameters.ranks()));
    own.push_back(0);
  }
  const PieceMemory staging(parameters.accelerator());
  for (const OwnedSlice& slice : parameters.owned())
    own[3 + 2 * size_t(slice.row)] = int64_t(hash_of(parameters, slice, staging));
  return own;
}

}  // namespace

void check_copies(const Parameters& parameters, Communicator& world) {
  if (world.size() == 1) return;
  std::vector<int64_t> own = tell(parameters), all(own.size() * size_t(world.size()));
  world.all_gather(make_tensor(own.data(), {int64_t(own.size())}),
                   make_tensor(all.data(), {int64_t(all.size())}));
  for (size_t row = 0; row < parameters.table().size(); row++) {
    const bool expert = parameters.table()[row].placement.expert;
    std::map<int64_t, std::map<int64_t, Copy>> regions;  // region -> copy
    for (int rank = 0; rank < world.size(); rank++) {
      const Told told{all.data() + size_t(rank) * own.size()};
      Copy& copy = regions[told.region(row)][told.copy(expert)];
      copy.hash += told.hash(row);
      copy.ranks.push_back(rank);
    }
    for (const auto& [region, copies] : regions) {
      const Copy& first = copies.begin()->second;
      for (const auto& [number, copy] : copies)
        if (copy.hash != first.hash)
          throw Error(
              Exit::failed,
              cat("copies have drifted apart: ", parameters.table()[row].name, " on ", list_of(copy.ranks),
                  " is not what it is on ", list_of(first.ranks),
                  "; nothing was saved, go on from the last checkpoint with --resume auto. Hosts with "
                  "other instruction sets must be held to one (JAMBALAYA_ISA); else suspect the "
                  "memory of these ranks' hosts"));
    }
  }
}

}  // namespace jambalaya
