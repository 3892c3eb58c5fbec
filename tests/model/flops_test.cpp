// Operations counted by hand for a small model, and for the published one by its active parameters.
#include "model/flops.h"

#include <gtest/gtest.h>

#include "tests/support/model.h"

namespace jambalaya {
namespace {

TEST(Flops, hand_count_of_a_small_hybrid) {
  ModelConfig c = test::small_model();  // D 8, E 16, N 3, R 2, W 4, F 7, V 13, H 2, G 1, C 4; M+E, A+D, M+E
  const Flops f = forward_flops(c, {3, 2});
  // A multiplication and an addition are two operations. Per token: q 8x8, k 8x4, v 8x4, o 8x8 = 192
  // products. Visible pairs: 1 + 2 + 3 and 1 + 2; for each, 2 heads x 4 products for the score and as many
  // for the value.
  EXPECT_EQ(f.attention, 5 * 2 * 192 + 9 * 2 * (8 + 8));
  // in_proj 8x32, x_proj 16x8, dt_proj 2x16, out_proj 16x8 = 544 products; conv 4 taps x 16; scan 6 x 16 x 3.
  EXPECT_EQ(f.mamba, 2 * 5 * (2 * 544 + 2 * 64 + 6 * 48));
  EXPECT_EQ(f.dense, 5 * 2 * (3 * 8 * 7));
  EXPECT_EQ(f.experts, 2 * 5 * 2 * (2 * 3 * 8 * 7 + 8 * 4));  // two chosen of four, and the router
  EXPECT_EQ(f.head, 5 * 2 * 8 * 13);
  EXPECT_EQ(f.total(), f.attention + f.mamba + f.dense + f.experts + f.head);
}

TEST(Flops, of_the_published_model_are_twice_its_active_parameters) {
  const ModelConfig mini;
  const ParameterCount n = count_parameters(mini);
  const double products = 2 * double(n.active - n.embedding);
  EXPECT_EQ(n.active - n.embedding, 11'841'875'840);
  // One token alone: the scan's own operations and the vectors are below two in a thousand.
  EXPECT_NEAR(forward_flops(mini, {1}).total() / products, 1, 2e-3);
  // 4 attention layers x 4 x 4096 operations for each visible pair: as much as all products near 360 Ki
  // tokens.
  const double length = 65536, pairs = length * (length + 1) / 2;
  EXPECT_NEAR(forward_flops(mini, {int64_t(length)}).total() - length * forward_flops(mini, {1}).total(),
              (pairs - length) * 4 * 4 * 4096, 1e6);
}

TEST(Flops, count_documents_not_rows) {
  const ModelConfig c = test::small_model();
  const double whole = forward_flops(c, {100}).total(), halves = forward_flops(c, {50, 50}).total();
  EXPECT_EQ(whole - halves, 4.0 * 8 * 50 * 50);  // the pairs between the two halves
  EXPECT_EQ(forward_flops(c, {50, 0, 50}).total(), halves);
  EXPECT_EQ(forward_flops(c, {}).total(), 0);
}

}  // namespace
}  // namespace jambalaya
