// Rows grouped into parts: what travels between ranks together, and the range of it that a rank owns.
#pragma once
#include <vector>

#include "model/placement.h"

namespace jambalaya {

/// Rows of one unit (embedding, a layer, or final norm and head) that are reduced over the same ranks and
/// read in the same precision: contiguous, each row 64-byte aligned, the whole padded so that every rank of
/// the shard group owns an equal range of it.
struct Part {
  int unit = 0;                 ///< ParameterRow::layer + 1
  bool expert = false;          ///< reduced over expert-data ranks, else over all ranks with other tokens
  bool value = false;           ///< the model reads it in fp32
  bool compute = false;         ///< the model reads bf16 copies
  int shards = 1;               ///< ranks that own a range each
  int64_t begin = 0, size = 0;  ///< in the rank's flat space of whole local rows, elements
  int64_t owned = 0;            ///< where this rank's range lies in its flat space of owned ranges
  int64_t owned_size() const { return size / shards; }
};

/// Elements [begin, end) of a local row, which this rank owns, at `at` of its owned flat space.
struct OwnedSlice {
  int row, part;
  int64_t begin, end, at;
};

struct PartPlan {
  std::vector<Part> parts;         ///< dense ones by unit, then those of experts by unit
  std::vector<int> part_of;        ///< by row
  std::vector<int64_t> offsets;    ///< by row: in the flat space of whole local rows
  std::vector<OwnedSlice> slices;  ///< in owned order; together every owned element but padding
  int64_t flat_size = 0, owned_size = 0;
};
/// bf16: the model reads compute copies where a row has them.
PartPlan plan_parts(const std::vector<ParameterRow>& table, const PlacementRanks& ranks, bool bf16);

/// Elements that stay in memory besides the owned ranges.
struct Residents {
  int64_t values = 0;     ///< f32: gathered, of sharded parts
  int64_t compute = 0;    ///< bf16 copies
  int64_t gradients = 0;  ///< f32: before their reduction, of sharded parts
};
Residents residents(const PartPlan& plan, const PlacementRanks& ranks, bool with_gradients);

}  // namespace jambalaya
