// Which layouts a world and a model admit, and what is said about the others.
#include "parallel/layout.h"

#include <gtest/gtest.h>

#include "kernels/error.h"
#include "parallel/mesh.h"

namespace jambalaya {
namespace {

const LayoutLimits kModel{.heads = 8, .kv_heads = 2, .channels = 32, .experts = 4};

std::string refusal(int ranks, const Layout& layout, const LayoutLimits* limits = nullptr) {
  try {
    limits ? check_layout(ranks, layout, *limits) : check_layout(ranks, layout);
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::layout);
    return e.what();
  }
  ADD_FAILURE() << describe(layout) << " was taken";
  return "";
}
void expect_refused(int ranks, const Layout& layout, const std::string& why,
                    const LayoutLimits* limits = nullptr) {
  const std::string text = refusal(ranks, layout, limits);
  EXPECT_NE(text.find(why), std::string::npos) << text;
}

TEST(Layout, data_is_what_is_left_over) {
  EXPECT_EQ(check_layout(8, {}).data, 8);
  EXPECT_EQ(check_layout(8, {.context = 2, .tensor = 2}).data, 2);
  EXPECT_EQ(check_layout(8, {.data = 4, .tensor = 2}).data, 4);
  EXPECT_EQ(check_layout(1, {}).data, 1);
}

TEST(Layout, degrees_must_make_up_the_world) {
  expect_refused(8, {.data = 3}, "data = 3 x context = 1 x tensor = 1 is not the 8 ranks");
  expect_refused(8, {.data = 16}, "data = 16");
  expect_refused(8, {.tensor = 3}, "tensor = 3 does not divide the 8 ranks");
  expect_refused(8, {.context = 16}, "context = 16");
  expect_refused(1, {.expert = 2}, "does not divide the 1 rank of");
  expect_refused(8, {.expert = 4, .expert_tensor = 4}, "expert = 4 x expert_tensor = 4 does not divide");
  expect_refused(8, {.tensor = 0}, "tensor = 0 is below 1");
  expect_refused(8, {.data = -1}, "data = -1 is below 0");
  expect_refused(8, {.context = 1 << 20, .tensor = 1 << 20}, "does not divide the 8 ranks");
}

TEST(Layout, the_model_must_admit_the_cut) {
  expect_refused(6, {.tensor = 3}, "tensor = 3 does not divide the 8 attention heads", &kModel);
  LayoutLimits odd = kModel;
  odd.kv_heads = 3;
  odd.heads = 12;
  expect_refused(4, {.tensor = 2}, "neither a divisor nor a multiple of the 3 key/value heads", &odd);
  LayoutLimits narrow{.channels = 6};
  expect_refused(4, {.tensor = 4}, "tensor = 4 does not divide the 6 channels of Mamba", &narrow);
  expect_refused(8, {.expert = 8}, "expert = 8 does not divide the 4 experts", &kModel);
  expect_refused(2, {.expert_tensor = 2}, "model without experts", &narrow);
  // Key/value heads are copied when there are fewer than ranks.
  EXPECT_EQ(check_layout(8, {.tensor = 8}, kModel).data, 1);
  EXPECT_EQ(check_layout(8, {.expert = 4, .expert_tensor = 2}, kModel).data, 8);
}

TEST(Layout, a_shard_group_divides_the_ranks_that_see_other_tokens) {
  const Layout l{.tensor = 2, .sharding = Sharding::full, .shard = 3};
  expect_refused(8, l, "shard = 3 does not divide the 4 ranks of data x context; admissible: 1, 2, 4");
  expect_refused(8, {.shard = 2}, "while sharding is none");
  const auto sizes = [](int ranks, Layout layout) {
    layout = check_layout(ranks, layout);
    return std::pair(dense_shard_ranks(layout), expert_shard_ranks(layout));
  };
  using Sizes = std::pair<int, int>;
  EXPECT_EQ(sizes(8, {}), Sizes(1, 1));
  EXPECT_EQ(sizes(8, {.expert = 2, .sharding = Sharding::optimizer}), Sizes(8, 4));
  EXPECT_EQ(sizes(8, {.expert = 2, .sharding = Sharding::full, .shard = 4}), Sizes(4, 2));
  EXPECT_EQ(sizes(8, {.tensor = 2, .expert = 2, .sharding = Sharding::full, .shard = 4}), Sizes(4, 4));
  EXPECT_EQ(sizes(8, {.expert = 8, .sharding = Sharding::full, .shard = 2}), Sizes(2, 1));
  // 4 ranks of the world do not divide the 6 that hold the same experts; 3 do.
  EXPECT_EQ(sizes(12, {.expert = 2, .sharding = Sharding::full, .shard = 6}), Sizes(6, 3));
  EXPECT_EQ(sizes(24, {.data = 12, .tensor = 2, .expert = 4, .sharding = Sharding::full, .shard = 12}),
            Sizes(12, 6));
  EXPECT_EQ(sizes(36, {.data = 36, .expert = 2, .sharding = Sharding::full, .shard = 9}), Sizes(9, 3));
}

TEST(Layout, the_list_holds_every_admissible_layout_and_no_other) {
  for (int ranks : {1, 2, 6, 8}) {
    int64_t found = 0;
    const std::vector<Layout> listed = valid_layouts(ranks, kModel);
    for (int d = 1; d <= ranks; d++)
      for (int c = 1; c <= ranks; c++)
        for (int t = 1; t <= ranks; t++)
          for (int x = 1; x <= ranks; x++)
            for (int e = 1; e <= ranks; e++) {
              const bool fits = d * c * t == ranks && ranks % (x * e) == 0 && 8 % t == 0 &&
                                (2 % t == 0 || t % 2 == 0) && 32 % t == 0 && 4 % x == 0;
              found += fits;
              const Layout l{.data = d, .context = c, .tensor = t, .expert = x, .expert_tensor = e};
              const auto same = [&](const Layout& other) { return describe(other) == describe(l); };
              EXPECT_EQ(std::count_if(listed.begin(), listed.end(), same), fits) << describe(l);
            }
    EXPECT_EQ(int64_t(listed.size()), found);
    for (const Layout& l : listed) EXPECT_EQ(describe(check_layout(ranks, l, kModel)), describe(l));
  }
}

TEST(Layout, a_refusal_lists_the_nearest_layouts_first) {
  const std::string text = refusal(8, {.tensor = 3}, &kModel);
  const size_t four = text.find("tensor=4"), eight = text.find("tensor=8"), first = text.find("\n  ");
  ASSERT_NE(first, std::string::npos) << text;
  EXPECT_EQ(text.substr(first, 60).find("data=2 context=1 tensor=4 expert=1 expert_tensor=1"), 3u) << text;
  EXPECT_LT(four, eight) << text;
  EXPECT_NE(text.find("more"), std::string::npos);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 13) << text;
}

TEST(Layout, tensor_ranks_on_different_hosts_are_named) {
  const Layout l = check_layout(4, {.tensor = 2});
  EXPECT_TRUE(placement_warnings(l, {"a", "a", "b", "b"}).empty());
  const std::vector<std::string> warnings = placement_warnings(l, {"a", "b", "b", "b"});
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("host a: ranks 0, host b: ranks 1)"), std::string::npos) << warnings[0];
  EXPECT_TRUE(placement_warnings(check_layout(4, {}), {"a", "b", "a", "b"}).empty());
}

}  // namespace
}  // namespace jambalaya
