// One sequence of 256K tokens at 8192 channels is 2^31 elements: offsets are 64-bit everywhere. The memory is
// only reserved; the few rows that are touched cost pages. (On a device all of it is there, which is why the
// emulated device is not asked.)
#include <gtest/gtest.h>

#include "kernels/ops.h"
#include "tests/support/device.h"

namespace jambalaya {
namespace {

constexpr int64_t kColumns = 4096, kRows = (int64_t(1) << 31) / kColumns + 2, kBytes = kRows * kColumns * 4;

struct Setting {
  test::OpContext on{2, "", int64_t(1) << 30};
  Context& ctx = on.context();
  Arena memory{"large", kBytes + (1 << 22)};
  void* pinned = test::on_device() ? test::accelerator().pinned(kBytes) : nullptr;  // whole: 8.6 GB
  Tensor large = make_tensor(pinned ? pinned : memory.take(kBytes, "large"), DType::f32, {kRows, kColumns});
  test::DeviceVector<float> small = test::DeviceVector<float>(size_t(2 * kColumns));
  Tensor two_rows = make_tensor(small.data(), {2, kColumns});
  test::DeviceVector<int32_t> rows{int32_t(kRows - 1), 0};
  Tensor ids = make_tensor(rows.data(), {2});
  ~Setting() {
    if (pinned) test::accelerator().free_pinned(pinned);
  }
  void mark(int64_t row, float value) {
    for (int64_t c = 0; c < kColumns; c++) large.slice_rows(row, row + 1).ptr<float>()[c] = value + float(c);
  }
};

TEST(LargeIndex, rows_beyond_two_to_the_31_elements_are_found) {
  Setting s;
  s.mark(0, 1);
  s.mark(kRows - 1, 2);
  s.ctx.ops->embedding_forward(s.ctx, {.ids = s.ids, .table = s.large, .y = s.two_rows});
  EXPECT_EQ(s.small[0], 2);
  EXPECT_EQ(s.small[size_t(kColumns)], 1);
  s.mark(kRows - 1, 3);
  s.ctx.ops->gather_rows(s.ctx, {.x = s.large, .token_of = s.ids, .y = s.two_rows});
  EXPECT_EQ(s.small[0], 3);
  EXPECT_EQ(s.small[size_t(kColumns) - 1], 3 + float(kColumns - 1));
}

TEST(LargeIndex, gradients_reach_rows_beyond_two_to_the_31_elements) {
  Setting s;
  std::fill(s.small.begin(), s.small.end(), 1.5f);
  for (int64_t row : {int64_t(0), kRows - 1}) std::fill_n(s.large.at(row).ptr<float>(), kColumns, 0.0f);
  s.rows[1] = s.rows[0];
  s.ctx.ops->embedding_backward(s.ctx, {.ids = s.ids, .dy = s.two_rows, .dtable = s.large});
  EXPECT_EQ(s.large.at(kRows - 1).ptr<float>()[0], 3);
  EXPECT_EQ(s.large.at(kRows - 1).ptr<float>()[kColumns - 1], 3);
  EXPECT_EQ(s.large.at(0).ptr<float>()[0], 0);
}

TEST(LargeIndex, products_read_rows_beyond_two_to_the_31_elements) {
  Setting s;
  for (int64_t row : {kRows - 2, kRows - 1})
    for (int64_t c = 0; c < kColumns; c++) s.large.at(row).ptr<float>()[c] = row == kRows - 1 ? 2.0f : 1.0f;
  std::fill(s.small.begin(), s.small.end(), 0.25f);
  test::DeviceVector<float> product(4);
  s.ctx.ops->gemm(s.ctx, {.a = s.two_rows,
                          .b = s.large.slice_rows(kRows - 2, kRows),
                          .c = make_tensor(product.data(), {2, 2}),
                          .transpose_b = true});
  EXPECT_EQ(product[0], 1024);
  EXPECT_EQ(product[3], 2048);
}

}  // namespace
}  // namespace jambalaya
