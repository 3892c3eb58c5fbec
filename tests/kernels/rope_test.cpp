#include <gtest/gtest.h>

#include "tests/kernels/reference/attention.h"
#include "tests/support/op_test.h"

namespace jambalaya {
namespace {

using reference::Values;
using test::available_isas;
using test::Owned;
using test::relative_l2;
using test::TestContext;

struct Packed {
  std::vector<int64_t> lengths, first;
  DocumentsBuffer docs{lengths, first};
  std::vector<int64_t> positions() const {
    std::vector<int64_t> p;
    for (size_t s = 0; s < lengths.size(); s++)
      for (int64_t i = 0; i < lengths[s]; i++) p.push_back(first[s] + i);
    return p;
  }
};
const Packed kPacked{{70, 1, 0, 130}, {0, 5, 0, 260000}};

TEST(RopeReference, turning_back_is_the_transpose) {
  // The rotation is linear, so its gradient is its transpose: <R x, y> = <x, R^T y>, R^T being the inverse.
  Owned x(DType::f32, {201, 20}), y(DType::f32, {201, 20});
  x.uniform(1), y.uniform(2);
  Values rx = reference::rope(x.values(), kPacked.positions(), 2, 10, 10000, 1);
  Values ry = reference::rope(y.values(), kPacked.positions(), 2, 10, 10000, -1);
  double left = 0, right = 0;
  for (size_t i = 0; i < rx.size(); i++) left += rx[i] * y.values()[i], right += x.values()[i] * ry[i];
  EXPECT_NEAR(left, right, 1e-9);
}

TEST(Rope, agrees_with_the_reference) {
  for (const auto& isa : available_isas())
    for (DType act : {DType::f32, DType::bf16})
      for (int64_t size : {2, 14, 64, 128})
        for (bool inverse : {false, true}) {
          TestContext ctx(2, isa);
          const int64_t heads = 3;
          Owned x(act, {201, heads * size}, heads * size + 7);
          x.uniform(3);
          Values want =
              reference::rope(x.values(), kPacked.positions(), heads, size, 10000, inverse ? -1 : 1);
          ctx->rope(ctx, {x, size, 10000, kPacked.docs.view(), inverse});
          EXPECT_LE(relative_l2(x, want), act == DType::f32 ? 1e-6 : 4e-3) << isa << " C " << size;
          EXPECT_TRUE(x.guards_intact());
        }
}

TEST(Rope, scores_depend_on_the_distance_alone) {
  TestContext ctx;
  auto score = [&](int64_t at_q, int64_t at_k) {
    Owned x(DType::f32, {2, 64});
    x.uniform(4);
    DocumentsBuffer docs({1, 1}, {at_q, at_k});
    ctx->rope(ctx, {x, 64, 500000, docs.view(), false});
    double sum = 0;
    for (int64_t j = 0; j < 64; j++) sum += x.get(0, j) * x.get(1, j);
    return sum;
  };
  EXPECT_NEAR(score(40, 3), score(200037, 200000), 1e-4);
  EXPECT_GT(std::abs(score(40, 3) - score(40, 4)), 1e-3);
}

TEST(Rope, same_bits_for_any_number_of_threads) {
  std::string first;
  for (int threads : {1, 2, 3}) {
    TestContext ctx(threads);
    Owned x(DType::bf16, {201, 64});
    x.uniform(5);
    ctx->rope(ctx, {x, 32, 10000, kPacked.docs.view(), false});
    if (first.empty()) first = x.bits();
    EXPECT_EQ(x.bits(), first);
  }
}

}  // namespace
}  // namespace jambalaya
