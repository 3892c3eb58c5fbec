// One sequence of 256K tokens at 8192 channels is 2^31 elements: offsets are 64-bit everywhere. The memory is
// only reserved; the few rows that are touched cost pages.
#include <gtest/gtest.h>

#include "kernels/ops.h"

namespace jambalaya {
namespace {

constexpr int64_t kColumns = 4096, kRows = (int64_t(1) << 31) / kColumns + 2;

struct Setting {
  Arena memory{"large", kRows*kColumns * 4 + (1 << 22)}, scratch{"scratch", int64_t(1) << 30};
  ThreadPool pool{2};
  Context ctx{.ops = &cpu_ops(), .pool = &pool, .scratch = &scratch};
  Tensor large = memory.tensor(DType::f32, {kRows, kColumns}, "large");
  std::vector<float> small = std::vector<float>(size_t(2 * kColumns));
  Tensor two_rows = make_tensor(small.data(), {2, kColumns});
  void mark(int64_t row, float value) {
    for (int64_t c = 0; c < kColumns; c++) large.slice_rows(row, row + 1).ptr<float>()[c] = value + float(c);
  }
};

TEST(LargeIndex, rows_beyond_two_to_the_31_elements_are_found) {
  Setting s;
  s.mark(0, 1);
  s.mark(kRows - 1, 2);
  int32_t rows[2] = {int32_t(kRows - 1), 0};
  s.ctx.ops->embedding_forward(s.ctx, {.ids = make_tensor(rows, {2}), .table = s.large, .y = s.two_rows});
  EXPECT_EQ(s.small[0], 2);
  EXPECT_EQ(s.small[size_t(kColumns)], 1);
  s.mark(kRows - 1, 3);
  s.ctx.ops->gather_rows(s.ctx, {.x = s.large, .token_of = make_tensor(rows, {2}), .y = s.two_rows});
  EXPECT_EQ(s.small[0], 3);
  EXPECT_EQ(s.small[size_t(kColumns) - 1], 3 + float(kColumns - 1));
}

TEST(LargeIndex, gradients_reach_rows_beyond_two_to_the_31_elements) {
  Setting s;
  std::fill(s.small.begin(), s.small.end(), 1.5f);
  int32_t rows[2] = {int32_t(kRows - 1), int32_t(kRows - 1)};
  s.ctx.ops->embedding_backward(s.ctx, {.ids = make_tensor(rows, {2}), .dy = s.two_rows, .dtable = s.large});
  EXPECT_EQ(s.large.at(kRows - 1).ptr<float>()[0], 3);
  EXPECT_EQ(s.large.at(kRows - 1).ptr<float>()[kColumns - 1], 3);
  EXPECT_EQ(s.large.at(0).ptr<float>()[0], 0);
}

TEST(LargeIndex, products_read_rows_beyond_two_to_the_31_elements) {
  Setting s;
  for (int64_t row : {kRows - 2, kRows - 1})
    for (int64_t c = 0; c < kColumns; c++) s.large.at(row).ptr<float>()[c] = row == kRows - 1 ? 2.0f : 1.0f;
  std::fill(s.small.begin(), s.small.end(), 0.25f);
  float product[4] = {};
  s.ctx.ops->gemm(s.ctx, {.a = s.two_rows,
                          .b = s.large.slice_rows(kRows - 2, kRows),
                          .c = make_tensor(product, {2, 2}),
                          .transpose_b = true});
  EXPECT_EQ(product[0], 1024);
  EXPECT_EQ(product[3], 2048);
}

}  // namespace
}  // namespace jambalaya
