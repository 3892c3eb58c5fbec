// Who holds what: under every layout the ranks' pieces tile every tensor, each element as often as the rules
// say, and each owned element once in each replica.
#include "model/placement.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "model/parameters.h"
#include "tests/support/model.h"

namespace jambalaya {
namespace {

/// Sizes that no degree divides where they need not be divisible.
ModelConfig uneven_model() {
  ModelConfig c = test::small_model();
  c.vocab_size = 13;
  c.hidden_size = 16;
  c.intermediate_size = 7;
  c.num_attention_heads = 8;
  c.num_key_value_heads = 2;
  c.num_experts = 4;
  c.mamba_proj_bias = true;
  return c;
}

struct World {
  int data, tensors, experts, expert_tensors, shards;
};
void PrintTo(const World& w, std::ostream* out) {
  *out << "d" << w.data << " t" << w.tensors << " x" << w.experts << " tau" << w.expert_tensors << " shards "
       << w.shards;
}

/// Where each rank of the world stands: rank = tp + t dp = etp + tau (ep + x edp).
PlacementRanks stand(const World& w, int rank) {
  PlacementRanks r;
  r.tensors = w.tensors, r.tensor = rank % w.tensors;
  r.expert_tensors = w.expert_tensors, r.expert_tensor = rank % w.expert_tensors;
  r.experts = w.experts, r.expert = rank / w.expert_tensors % w.experts;
  const auto group = [](int index, int size, int shards) {
    return ShardGroup{index % shards, shards, index / shards, size / shards};
  };
  const int ranks = w.data * w.tensors, edp = ranks / (w.experts * w.expert_tensors);
  r.dense = group(rank / w.tensors, w.data, w.shards);
  r.expert_data = group(rank / (w.expert_tensors * w.experts), edp, std::gcd(edp, w.shards));
  return r;
}

class Layouts : public testing::TestWithParam<World> {
 protected:
  int ranks() const { return GetParam().data * GetParam().tensors; }
};

TEST_P(Layouts, pieces_tile_every_tensor) {
  for (const ParameterRow& row : parameter_table(uneven_model())) {
    SCOPED_TRACE(row.name);
    std::vector<int> held(size_t(row.numel()), 0);
    int64_t expected = 0;
    for (int rank = 0; rank < ranks(); rank++) {
      const PlacementRanks stands = stand(GetParam(), rank);
      int64_t at = 0;
      for (const Rectangle& piece : pieces(row, stands)) {
        EXPECT_EQ(piece.at, at);  // in order, without gaps
        at += piece.numel();
        int64_t inside = piece.at;
        for (const Stretch& run : stretches(row, piece)) {
          EXPECT_EQ(run.local, inside);
          inside += run.count;
          for (int64_t i = 0; i < run.count; i++) held[size_t(run.global + i)]++;
        }
        EXPECT_EQ(inside, at);
      }
      const std::vector<int64_t> shape = local_shape(row, stands);
      EXPECT_EQ(at, std::accumulate(shape.begin(), shape.end(), int64_t(1), std::multiplies<>()));
      expected = copies(row, stands) * shard_group(row, stands).size * shard_group(row, stands).replicas;
    }
    for (int n : held) ASSERT_EQ(n, expected);
  }
}

TEST_P(Layouts, first_copies_hold_everything_once) {
  for (const ParameterRow& row : parameter_table(uneven_model())) {
    std::vector<int> held(size_t(row.numel()), 0);
    for (int rank = 0; rank < ranks(); rank++) {
      const PlacementRanks stands = stand(GetParam(), rank);
      const ShardGroup& group = shard_group(row, stands);
      if (!first_copy(row, stands) || group.rank > 0 || group.replica > 0) continue;
      for (const Rectangle& piece : pieces(row, stands))
        for (const Stretch& run : stretches(row, piece))
          for (int64_t i = 0; i < run.count; i++) held[size_t(run.global + i)]++;
    }
    for (int n : held) ASSERT_EQ(n, 1) << row.name;
  }
}

TEST_P(Layouts, owned_slices_tile_every_tensor_in_each_replica) {
  const std::vector<ParameterRow> table = parameter_table(uneven_model());
  for (bool bf16 : {false, true}) {
    std::vector<std::vector<int>> held;
    for (const ParameterRow& row : table) held.emplace_back(size_t(row.numel()), 0);
    for (int rank = 0; rank < ranks(); rank++) {
      const PlacementRanks stands = stand(GetParam(), rank);
      const PartPlan plan = plan_parts(table, stands, bf16);
      int64_t owned = 0, whole = 0, end = 0;
      for (const Part& part : plan.parts) {
        EXPECT_EQ(part.size % (16 * part.shards), 0);
        EXPECT_EQ(part.begin, whole);
        EXPECT_EQ(part.owned, owned);
        whole += part.size, owned += part.owned_size();
      }
      EXPECT_EQ(whole, plan.flat_size);
      EXPECT_EQ(owned, plan.owned_size);
      for (const OwnedSlice& slice : plan.slices) {
        EXPECT_GE(slice.at, end);  // ranges in order, none on another
        end = slice.at + slice.end - slice.begin;
        const ParameterRow& row = table[size_t(slice.row)];
        for (const Rectangle& piece : pieces(row, stands, slice.begin, slice.end))
          for (const Stretch& run : stretches(row, piece))
            for (int64_t i = 0; i < run.count; i++) held[size_t(slice.row)][size_t(run.global + i)]++;
      }
      EXPECT_LE(end, plan.owned_size);
    }
    for (size_t i = 0; i < table.size(); i++) {
      const PlacementRanks any = stand(GetParam(), 0);
      for (int n : held[i])
        ASSERT_EQ(n, copies(table[i], any) * shard_group(table[i], any).replicas) << table[i].name;
    }
  }
}

TEST_P(Layouts, starting_values_are_those_of_one_rank) {
  const ModelConfig config = uneven_model();
  Parameters whole(config, Precision::f32, false);
  whole.initialize(5);
  for (int rank = 0; rank < ranks(); rank++) {
    const PlacementRanks stands = stand(GetParam(), rank);
    Parameters mine(config, Precision::bf16, false, stands);
    mine.initialize(5);
    for (const OwnedSlice& slice : mine.owned()) {
      const ParameterRow& row = mine.table()[size_t(slice.row)];
      for (const Rectangle& piece : pieces(row, stands, slice.begin, slice.end))
        for (const Stretch& run : stretches(row, piece))
          EXPECT_EQ(std::memcmp(whole.master(slice.row).ptr<float>() + run.global,
                                mine.owned_master().ptr<float>() + slice.at + run.local - slice.begin,
                                size_t(run.count) * sizeof(float)),
                    0)
              << row.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Layouts,
                         testing::Values(World{1, 1, 1, 1, 1}, World{4, 1, 1, 1, 1}, World{4, 1, 2, 1, 2},
                                         World{4, 1, 4, 1, 4}, World{1, 2, 1, 2, 1}, World{1, 4, 1, 1, 1},
                                         World{1, 8, 4, 2, 1}, World{2, 4, 2, 2, 2}, World{4, 2, 2, 1, 4},
                                         World{3, 1, 1, 3, 3}, World{4, 2, 1, 8, 2}));

TEST(Placement, key_value_heads_are_copied_when_tensor_ranks_are_more) {
  const std::vector<ParameterRow> table = parameter_table(uneven_model());  // 2 heads of 2 channels, width 16
  for (const ParameterRow& row : table) {
    if (!row.placement.kv_heads) continue;
    for (int rank = 0; rank < 8; rank++) {
      const PlacementRanks stands{.tensor = rank, .tensors = 8};
      EXPECT_EQ(copies(row, stands), 4);
      EXPECT_EQ(first_copy(row, stands), rank % 4 == 0);
      ASSERT_EQ(pieces(row, stands).size(), 1u);
      EXPECT_EQ(pieces(row, stands)[0].offset[0], rank / 4 * 2);
      EXPECT_EQ(local_shape(row, stands)[0], 2);
    }
  }
}

TEST(Placement, halves_of_fused_matrices_are_cut_separately) {
  ParameterRow row{.name = "in_proj", .shape = {12, 5}, .placement = {.tensor_dim = 0, .blocks = 2}};
  const std::vector<Rectangle> second = pieces(row, {.tensor = 1, .tensors = 2});
  ASSERT_EQ(second.size(), 2u);
  EXPECT_EQ(second[0].offset, (std::vector<int64_t>{3, 0}));
  EXPECT_EQ(second[1].offset, (std::vector<int64_t>{9, 0}));
  EXPECT_EQ(second[1].at, 15);
}

TEST(Placement, gradients_are_summed_over_tensor_ranks_by_the_table_alone) {
  const std::vector<ParameterRow> table = parameter_table(uneven_model());
  for (const ParameterRow& row : table)
    for (bool sequence : {false, true}) {
      const PlacementRanks stands{.tensors = 4, .sequence = sequence};
      const auto ends = [&](const char* tail) { return row.name.ends_with(tail); };
      const bool on_the_stream = ends("input_layernorm.weight") || ends("pre_ff_layernorm.weight") ||
                                 ends("final_layernorm.weight") || ends("out_proj.bias");
      const bool always = ends("router.weight") || ends("k_proj.weight") || ends("v_proj.weight");
      EXPECT_EQ(summed_over_tensor_ranks(row, stands), always || (on_the_stream && sequence)) << row.name;
      EXPECT_FALSE(summed_over_tensor_ranks(row, {}));
    }
}

TEST(Rectangles, of_any_range_are_few_and_in_order) {
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{7}, {3, 5}, {1, 6}, {4, 1}, {3, 2, 4}, {2, 3, 1}, {2, 3, 2, 2}}) {
    const int64_t n = std::accumulate(shape.begin(), shape.end(), int64_t(1), std::multiplies<>());
    const ParameterRow row{.shape = shape};
    for (int64_t begin = 0; begin <= n; begin++)
      for (int64_t end = begin; end <= n; end++) {
        const std::vector<Rectangle> all = rectangles(shape, begin, end);
        EXPECT_LE(all.size(), 2 * shape.size() - 1);
        int64_t at = begin;
        for (const Rectangle& piece : all) {
          EXPECT_EQ(piece.at, at - begin);
          for (const Stretch& run : stretches(row, piece)) {
            EXPECT_EQ(run.global, at);
            at += run.count;
          }
        }
        EXPECT_EQ(at, end);
      }
  }
}

}  // namespace
}  // namespace jambalaya
