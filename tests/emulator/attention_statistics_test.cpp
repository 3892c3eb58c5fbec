// The order of the vendor's attention statistics into ours: a kernel that no op reaches without that library.
#include <gtest/gtest.h>

#include "kernels/cuda/attention_library.h"
#include "kernels/transfer.h"
#include "tests/support/op_test.h"

namespace jambalaya {
namespace {

TEST(AttentionStatistics, rows_become_columns) {
  for (auto [tokens, heads] : {std::pair<int64_t, int64_t>{70, 5}, {32, 64}, {1, 33}, {31, 1}}) {
    test::TestContext ctx;
    test::Owned from(DType::f32, {tokens, heads}), to(DType::f32, {heads, tokens}, tokens + 3);
    from.uniform(1);
    cuda::transpose_statistics(ctx, from, to);
    synchronize(ctx);
    for (int64_t t = 0; t < tokens; t++)
      for (int64_t h = 0; h < heads; h++) ASSERT_EQ(to.get(h, t), from.get(t, h)) << t << " " << h;
    EXPECT_TRUE(to.guards_intact());
  }
}

}  // namespace
}  // namespace jambalaya
