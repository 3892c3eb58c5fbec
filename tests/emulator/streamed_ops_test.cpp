// Ops on the emulated device with JAMBALAYA_EMULATED_OPS=cpu: the CPU's numbers, in the stream's order.
#include "tests/emulator/streamed_ops.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/transfer.h"
#include "tests/support/device.h"

namespace jambalaya::test {
namespace {

class StreamedOpsTest : public testing::Test {
 protected:
  Context& ctx() { return context_.context(); }
  Ops& ops() { return accelerator().ops(); }
  Tensor device_tensor(const std::vector<float>& values, std::initializer_list<int64_t> shape) {
    const Tensor there = arena_.tensor(DType::f32, shape, "x");
    Tensor host = there;
    host.data = const_cast<float*>(values.data()), host.device = Device::cpu;
    copy(ctx(), host, there);
    return there;
  }
  OpContext context_{1, "", 1 << 20};
  Arena arena_{"test", 1 << 24, &accelerator()};
};

TEST_F(StreamedOpsTest, an_op_runs_when_somebody_waits_and_not_before) {
  const Tensor x = device_tensor({1, 2, 3, 4}, {2, 2}), y = arena_.tensor(DType::f32, {2, 2}, "y");
  auto* const back = static_cast<float*>(accelerator().pinned(16));
  ops().scale_copy(ctx(), {.x = x, .y = y, .alpha = 2});
  copy(ctx(), y, make_tensor(back, {2, 2}));
  EXPECT_TRUE(std::isnan(back[0]));
  synchronize(ctx());
  EXPECT_EQ(back[3], 8);
  accelerator().free_pinned(back);
}

TEST_F(StreamedOpsTest, a_tensor_in_pageable_memory_is_refused) {
  std::vector<float> host(4);
  const Tensor y = arena_.tensor(DType::f32, {2, 2}, "y");
  EXPECT_THROW(ops().scale_copy(ctx(), {.x = make_tensor(host.data(), {2, 2}), .y = y}), std::logic_error);
  Tensor beyond = y;
  beyond.shape = {int64_t(1) << 30, 2};
  EXPECT_THROW(ops().scale_copy(ctx(), {.x = beyond, .y = beyond}), std::logic_error);
}

TEST_F(StreamedOpsTest, what_an_op_finds_wrong_is_told_by_the_next_wait) {
  std::vector<int32_t> values{0, 7};
  const Tensor ids = to_device(ctx(), values, arena_, "ids");
  const Tensor table = device_tensor({1, 2, 3, 4}, {2, 2}), y = arena_.tensor(DType::f32, {2, 2}, "y");
  ops().embedding_forward(ctx(), {.ids = ids, .table = table, .y = y});
  try {
    synchronize(ctx());
    FAIL();
  } catch (const std::logic_error& error) {
    EXPECT_NE(std::string(error.what()).find("id 7 of token 1"), std::string::npos) << error.what();
  }
  synchronize(ctx());  // once
}

TEST_F(StreamedOpsTest, a_stream_whose_op_failed_can_be_freed) {
  Context other = ctx();
  other.stream = accelerator().new_stream();
  const std::vector<int32_t> values{7};  // pageable: goes through the stream's staging memory
  const Tensor ids = to_device(other, values, arena_, "ids");
  const Tensor table = device_tensor({1, 2, 3, 4}, {2, 2}), y = arena_.tensor(DType::f32, {1, 2}, "y");
  ops().embedding_forward(other, {.ids = ids, .table = table, .y = y});
  to_device(other, values, arena_, "more");
  accelerator().free_stream(other.stream);
}

/// Positions: RoPE of ones by the documents' positions.
std::vector<float> rotated(Context& ctx, Ops& ops, Arena& arena, const Documents& docs, int64_t tokens) {
  const Tensor x = arena.tensor(DType::f32, {tokens, 2}, "x");
  copy(ctx, make_tensor(std::vector<float>(size_t(2 * tokens), 1.f).data(), {tokens, 2}), x);
  ops.rope(ctx, {.x = x, .head_size = 2, .docs = docs});
  return to_host<float>(ctx, x);
}

TEST_F(StreamedOpsTest, control_arrays_of_the_host_are_read_at_the_call_those_of_the_device_in_order) {
  DocumentsBuffer docs({2, 3}), other({5});
  const std::vector<float> want = rotated(ctx(), ops(), arena_, docs.view(), 5);
  const std::vector<float> want_other = rotated(ctx(), ops(), arena_, other.view(), 5);
  ASSERT_NE(want, want_other);

  const Tensor x = device_tensor(std::vector<float>(10, 1.f), {5, 2});
  ops().rope(ctx(), {.x = x, .head_size = 2, .docs = docs.view()});
  docs.assign({5});
  EXPECT_EQ(to_host<float>(ctx(), x), want);

  Documents there = other.view();
  auto upload = [&](const int32_t* values, int64_t n) {
    const Tensor t = arena_.tensor(DType::i32, {n}, "docs");
    copy(ctx(), make_tensor(values, {n}), t);
    return static_cast<const int32_t*>(t.data);
  };
  const DocumentsBuffer first({2, 3});
  there.count = 2;
  there.device_offsets = upload(first.view().offsets, 3);
  there.device_first_position = upload(first.view().first_position, 2);
  there.device_segment_of = upload(first.view().segment_of, 5);
  EXPECT_EQ(rotated(ctx(), ops(), arena_, there, 5), want) << "the device's arrays, not the host's";
}

}  // namespace
}  // namespace jambalaya::test
