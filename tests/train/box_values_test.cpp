// Boxes go between files and memory piece by piece: every element once, in order, whatever the piece's size.
#include "train/checkpoint/box_values.h"

#include <gtest/gtest.h>

#include "tests/support/device.h"
#include "tests/support/temporary_folder.h"
#include "train/checkpoint/checkpoint.h"
#include "train/checkpoint/whole.h"

namespace jambalaya {
namespace {

/// Calls f with every index of a box of that shape, in memory order.
template <class F>
void each_index(const std::vector<int64_t>& shape, F f) {
  std::vector<int64_t> index(shape.size(), 0);
  int64_t n = 1;
  for (int64_t extent : shape) n *= extent;
  for (int64_t i = 0; i < n; i++) {
    f(index);
    for (size_t d = shape.size(); d-- > 0;) {
      if (++index[d] < shape[d]) break;
      index[d] = 0;
    }
  }
}

int64_t flat(const std::vector<int64_t>& index, const std::vector<int64_t>& shape) {
  int64_t at = 0;
  for (size_t d = 0; d < shape.size(); d++) at = at * shape[d] + index[d];
  return at;
}

Tensor view(float* data, const std::vector<int64_t>& shape) { return whole_box("", shape, data).local; }

TEST(BoxValues, pieces_are_the_box_in_memory_order_and_within_the_limit) {
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{7}, {1}, {3, 5}, {1, 6}, {2, 3, 4}, {4, 1, 3}, {2, 1, 3, 5}}) {
    for (int64_t limit = 1; limit <= 31; limit++) {
      int64_t next = 0;
      for (const BoxPiece& piece : pieces_of_box(shape, limit)) {
        EXPECT_LE(piece.elements(), limit);
        each_index(piece.count, [&](std::vector<int64_t> index) {
          for (size_t d = 0; d < index.size(); d++) index[d] += piece.from[d];
          EXPECT_EQ(flat(index, shape), next++);
        });
      }
      int64_t all = 1;
      for (int64_t extent : shape) all *= extent;
      EXPECT_EQ(next, all) << "limit " << limit;
    }
    EXPECT_EQ(pieces_of_box(shape, 1 << 20).size(), 1u);
  }
  EXPECT_TRUE(pieces_of_box({3, 0, 2}, 4).empty());
}

TEST(BoxValues, any_rectangle_lands_in_its_place) {
  const std::vector<int64_t> shape{3, 2, 4, 5};
  each_index({3, 2, 4, 5}, [&](const std::vector<int64_t>& from) {
    for (const std::vector<int64_t>& most :
         {std::vector<int64_t>{3, 2, 4, 5}, {1, 2, 4, 5}, {2, 1, 2, 3}, {3, 2, 1, 2}, {1, 1, 1, 1}}) {
      BoxPiece piece{from, most};
      for (size_t d = 0; d < 4; d++) piece.count[d] = std::min(most[d], shape[d] - from[d]);
      std::vector<float> values(size_t(piece.elements())), box(120, 0), want(120, 0);
      for (size_t i = 0; i < values.size(); i++) values[i] = float(i + 1);
      size_t next = 0;
      each_index(piece.count, [&](std::vector<int64_t> index) {
        for (size_t d = 0; d < 4; d++) index[d] += from[d];
        want[size_t(flat(index, shape))] = values[next++];
      });
      copy_into_box(Context{}, values.data(), piece, view(box.data(), shape));
      EXPECT_EQ(box, want);
    }
  });
}

/// Larger than a piece; written from device memory, read back whole and in part, to the host and the device.
TEST(BoxValues, device_memory_is_saved_and_loaded_through_pieces) {
  if (!test::on_device()) GTEST_SKIP() << "without a device boxes lie in host memory";
  const std::vector<int64_t> shape{3, 1500, 1111};
  const int64_t n = 3 * 1500 * 1111;
  ASSERT_GT(n, PieceMemory::kElements);
  Accelerator* const device = &test::accelerator();
  const Context ctx = transfer_context(device);
  Arena arena("test", int64_t(1) << 30, device);
  std::vector<float> values(static_cast<size_t>(n));
  for (size_t i = 0; i < values.size(); i++) values[i] = float(i % 100003);
  const Tensor there = arena.tensor(DType::f32, {3, 1500, 1111}, "test");
  copy(ctx, view(values.data(), shape), there);

  const test::TemporaryFolder folder;
  ModelConfig model;
  save_checkpoint(*make_single_communicator(), folder.path("saved"),
                  {{"param/x", shape, {0, 0, 0}, there, nullptr, device}}, {.step = 1}, model, true);
  const CheckpointInfo info = resolve_checkpoint(folder.path("saved"));

  std::vector<float> host(values.size());
  std::vector<Box> boxes{whole_box("param/x", shape, host.data())};
  read_boxes(info, boxes);
  EXPECT_EQ(host, values);

  const Tensor again = arena.tensor(DType::f32, {3, 1500, 1111}, "test");
  boxes = {{"param/x", shape, {0, 0, 0}, again, nullptr, device}};
  read_boxes(info, boxes);
  EXPECT_EQ(to_host<float>(ctx, again), values);

  // Columns 5 to 1105 of rows 7 to 1499 of two matrices.
  const Tensor part = arena.tensor(DType::f32, {2, 1492, 1100}, "test");
  boxes = {{"param/x", shape, {1, 7, 5}, part, nullptr, device}};
  read_boxes(info, boxes);
  const std::vector<float> got = to_host<float>(ctx, part);
  bool same = true;
  size_t next = 0;
  each_index({2, 1492, 1100}, [&](const std::vector<int64_t>& index) {
    same &= got[next++] == values[size_t(flat({index[0] + 1, index[1] + 7, index[2] + 5}, shape))];
  });
  EXPECT_TRUE(same);
}

}  // namespace
}  // namespace jambalaya
