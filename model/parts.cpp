#include "model/parts.h"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace jambalaya {

namespace {

constexpr int64_t kAlign = 16;  // elements: 64 bytes of fp32

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

int64_t local_numel(const ParameterRow& row, const PlacementRanks& ranks) {
  int64_t n = 1;
  for (int64_t s : local_shape(row, ranks)) n *= s;
  return n;
}

/// What a row has in common with the others of its part.
struct Kind {
  bool expert;
  int unit;
  bool value, compute;
  auto operator<=>(const Kind&) const = default;
};
Kind kind_of(const ParameterRow& row, bool bf16) {
  const bool copy = bf16 && row.compute_copy;
  return {row.placement.expert, row.layer + 1, !copy || row.read_twice, copy};
}

/// The owned range of a part, row by row.
void add_slices(const Part& part, int index, const std::vector<int>& rows,
                const std::vector<ParameterRow>& table, const PlacementRanks& ranks, PartPlan& plan) {
  const int64_t first = shard_group(table[size_t(rows[0])], ranks).rank * part.owned_size();
  for (int row : rows) {
    const int64_t at = plan.offsets[size_t(row)] - part.begin;  // of the row in its part
    const int64_t n = local_numel(table[size_t(row)], ranks);
    const int64_t begin = std::max<int64_t>(first - at, 0), end = std::min(first + part.owned_size() - at, n);
    if (begin < end) plan.slices.push_back({row, index, begin, end, part.owned + at + begin - first});
  }
}

}  // namespace

PartPlan plan_parts(const std::vector<ParameterRow>& table, const PlacementRanks& ranks, bool bf16) {
  std::vector<int> order(table.size());
  std::iota(order.begin(), order.end(), 0);
  const auto kind = [&](int row) { return kind_of(table[size_t(row)], bf16); };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return kind(a) < kind(b); });
  PartPlan plan;
  plan.part_of.resize(table.size());
  plan.offsets.resize(table.size());
  for (size_t i = 0; i < order.size();) {
    const Kind k = kind(order[i]);
    std::vector<int> rows;
    Part part{.unit = k.unit,
              .expert = k.expert,
              .value = k.value,
              .compute = k.compute,
              .shards = shard_group(table[size_t(order[i])], ranks).size,
              .begin = plan.flat_size,
              .owned = plan.owned_size};
    for (; i < order.size() && kind(order[i]) == k; i++) {
      rows.push_back(order[i]);
      plan.part_of[size_t(order[i])] = int(plan.parts.size());
      plan.offsets[size_t(order[i])] = part.begin + part.size;
      part.size += round_up(local_numel(table[size_t(order[i])], ranks), kAlign);
    }
    part.size = round_up(part.size, kAlign * part.shards);
    plan.flat_size += part.size;
    plan.owned_size += part.owned_size();
    add_slices(part, int(plan.parts.size()), rows, table, ranks, plan);
    plan.parts.push_back(part);
  }
  return plan;
}

Residents residents(const PartPlan& plan, const PlacementRanks& ranks, bool with_gradients) {
  Residents n;
  for (const Part& part : plan.parts) {
    if (part.shards > 1 && ranks.full) continue;
    if (part.compute) n.compute += part.size;
    if (part.shards == 1) continue;  // owned ranges are the whole
    if (part.value) n.values += part.size;
    if (with_gradients) n.gradients += part.size;
  }
  return n;
}

}  // namespace jambalaya
