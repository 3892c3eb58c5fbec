// The device as the host drives it: copies, streams, events, arenas. On whatever the CUDA library opens
// (JAMBALAYA_TEST_DEVICE=cuda).
#include "kernels/accelerator.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <thread>

#include "kernels/byte_text.h"
#include "kernels/transfer.h"
#include "tests/support/device.h"

namespace jambalaya::test {
namespace {

TEST(CudaLibrary, one_that_is_not_there_is_named) {
  auto open_nothing = [] {
    setenv("JAMBALAYA_CUDA_LIBRARY", "/nowhere/libjambalaya_cuda.so", 1);
    std::string why;
    if (cuda_devices(&why) != 0 || why.find("/nowhere/") == std::string::npos) std::exit(1);
    try {
      open_cuda(0);
    } catch (const Error& error) {
      std::fprintf(stderr, "%s", error.what());
      std::exit(int(error.exit()));
    }
    std::exit(0);
  };
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // a process of its own, which has no library yet
  EXPECT_EXIT(open_nothing(), testing::ExitedWithCode(int(Exit::usage)), "no CUDA library here");
}

/// What the process' variable is after the library was asked for devices.
void expect_kernel_loading(const char* set_by_user, const char* expected) {
  auto ask = [=] {
    set_by_user ? setenv("CUDA_MODULE_LOADING", set_by_user, 1) : unsetenv("CUDA_MODULE_LOADING");
    cuda_devices();
    const char* value = std::getenv("CUDA_MODULE_LOADING");
    std::fprintf(stderr, "%s", value ? value : "not set");
    std::exit(0);
  };
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(ask(), testing::ExitedWithCode(0), expected);
}

TEST(CudaLibrary, kernels_are_loaded_at_the_start_unless_the_user_says_otherwise) {
  if (!on_device()) GTEST_SKIP() << "no device under test";
  expect_kernel_loading(nullptr, "^EAGER$");
  expect_kernel_loading("LAZY", "^LAZY$");
}

class AcceleratorTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!on_device()) GTEST_SKIP() << "no device under test";
  }
  Accelerator& device() { return accelerator(); }
  Accelerator::Stream stream() { return device().compute_stream(); }
};

/// Numbers that differ from byte to byte and from seed to seed.
std::vector<uint8_t> bytes_of(size_t n, unsigned seed) {
  std::vector<uint8_t> bytes(n);
  for (size_t i = 0; i < n; i++) bytes[i] = uint8_t(i * 131 + (i >> 8) * 7 + seed);
  return bytes;
}

/// The device's memory at `there`, read with a wait.
std::vector<uint8_t> read(Accelerator& device, const void* there, size_t n) {
  std::vector<uint8_t> bytes(n);
  device.copy(bytes.data(), int64_t(n), there, int64_t(n), int64_t(n), 1, device.compute_stream());
  device.synchronize(device.compute_stream());
  return bytes;
}

TEST_F(AcceleratorTest, properties_describe_a_device_that_can_be_used) {
  const AcceleratorProperties& p = device().properties();
  EXPECT_FALSE(p.name.empty());
  EXPECT_FALSE(p.bus_id.empty());
  EXPECT_GE(p.major, 8);
  EXPECT_GT(p.multiprocessors, 0);
  EXPECT_GT(p.memory_bytes, 0);
  EXPECT_GT(device().free_bytes(), 0);
  EXPECT_LE(device().free_bytes(), p.memory_bytes);
}

TEST_F(AcceleratorTest, a_device_that_is_not_there_is_refused) {
  try {
    open_cuda(1000);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::usage);
    EXPECT_NE(std::string(error.what()).find("no GPU 1000"), std::string::npos) << error.what();
  }
}

TEST_F(AcceleratorTest, host_memory_may_change_once_its_copy_is_enqueued) {
  Arena arena("test", 1 << 20, &device());
  void* const there = arena.take(1000, "x");
  const std::vector<uint8_t> first = bytes_of(1000, 1);
  std::vector<uint8_t> from = first;
  device().copy(there, 1000, from.data(), 1000, 1000, 1, stream());
  std::fill(from.begin(), from.end(), uint8_t(0));
  EXPECT_EQ(read(device(), there, 1000), first);
}

TEST_F(AcceleratorTest, copies_larger_than_the_staging_memory_arrive_whole) {
  const size_t n = (size_t(70) << 20) + 12345;
  Arena arena("test", int64_t(n), &device());
  void* const there = arena.take(int64_t(n), "x");
  const std::vector<uint8_t> from = bytes_of(n, 3);
  device().copy(there, int64_t(n), from.data(), int64_t(n), int64_t(n), 1, stream());
  EXPECT_TRUE(read(device(), there, n) == from);
}

TEST_F(AcceleratorTest, many_small_copies_keep_their_order) {
  Arena arena("test", 1 << 20, &device());
  auto* const there = static_cast<char*>(arena.take(64 << 10, "x"));
  std::vector<uint8_t> want(64 << 10);
  for (unsigned i = 0; i < 3000; i++) {  // 96 MB in all through 32 MiB of staging memory
    const size_t at = i * 997 % (32 << 10), n = 32 << 10;
    const std::vector<uint8_t> piece(n, uint8_t(i));
    device().copy(there + at, int64_t(n), piece.data(), int64_t(n), int64_t(n), 1, stream());
    std::fill_n(want.begin() + int64_t(at), n, uint8_t(i));
  }
  const std::vector<uint8_t> got = read(device(), there, want.size());
  const size_t written = size_t(32 << 10) + 997;  // what lies after it may never have been written
  EXPECT_TRUE(std::equal(got.begin(), got.begin() + int64_t(written), want.begin()));
}

/// Copies a matrix to the device and back with other distances between rows, and looks at the bytes between.
void copy_there_and_back(Accelerator& device, uint8_t* from, uint8_t* back, int64_t row, int64_t rows) {
  const int64_t from_pitch = row + 3, there_pitch = row + 256, back_pitch = row + 5;
  Arena arena("test", there_pitch * rows, &device);
  void* const there = arena.take(there_pitch * rows, "x");
  device.copy(there, there_pitch, from, from_pitch, row, rows, device.compute_stream());
  device.copy(back, back_pitch, there, there_pitch, row, rows, device.compute_stream());
  device.synchronize(device.compute_stream());
  for (int64_t r = 0; r < rows; r++) {
    ASSERT_EQ(std::memcmp(back + r * back_pitch, from + r * from_pitch, size_t(row)), 0) << "row " << r;
    for (int64_t i = row; i < back_pitch && r + 1 < rows; i++) ASSERT_EQ(back[r * back_pitch + i], 0x77);
  }
}

TEST_F(AcceleratorTest, strided_rows_are_copied_and_what_lies_between_is_not) {
  // The last one has rows longer than a piece of the staging memory.
  for (const auto& [row, rows] : {std::pair<int64_t, int64_t>{1, 1}, {17, 5}, {4096, 33}, {9 << 20, 2}}) {
    const size_t n = size_t((row + 256) * rows);
    std::vector<uint8_t> from = bytes_of(n, 5), back(n, 0x77);
    copy_there_and_back(device(), from.data(), back.data(), row, rows);
    auto* const pinned_from = static_cast<uint8_t*>(device().pinned(int64_t(n)));
    auto* const pinned_back = static_cast<uint8_t*>(device().pinned(int64_t(n)));
    std::memcpy(pinned_from, from.data(), n), std::memset(pinned_back, 0x77, n);
    copy_there_and_back(device(), pinned_from, pinned_back, row, rows);
    device().free_pinned(pinned_from), device().free_pinned(pinned_back);
  }
}

TEST_F(AcceleratorTest, fill_writes_rows_and_not_what_lies_between) {
  Arena arena("test", 1 << 20, &device());
  void* const there = arena.take(1000, "x");
  device().fill(there, 1000, 0x11, 1000, 1, stream());
  device().fill(there, 100, 0x22, 60, 10, stream());
  const std::vector<uint8_t> got = read(device(), there, 1000);
  for (size_t i = 0; i < 1000; i++) ASSERT_EQ(got[i], i % 100 < 60 ? 0x22 : 0x11) << i;
}

TEST_F(AcceleratorTest, nothing_is_moved_for_no_rows_and_empty_rows) {
  Arena arena("test", 1 << 20, &device());
  void* const there = arena.take(16, "x");
  device().fill(there, 16, 0x11, 16, 1, stream());
  device().fill(there, 0, 0x22, 0, 4, stream());
  device().copy(there, 16, nullptr, 16, 16, 0, stream());
  device().copy(there, 0, nullptr, 0, 0, 3, stream());
  EXPECT_EQ(read(device(), there, 16), std::vector<uint8_t>(16, 0x11));
}

TEST_F(AcceleratorTest, an_event_orders_streams_by_where_it_was_recorded_last) {
  Arena arena("test", 1 << 20, &device());
  auto* const there = static_cast<char*>(arena.take(512, "x"));
  const Accelerator::Stream other = device().new_stream();
  const Accelerator::Event event = device().new_event();
  EXPECT_TRUE(device().reached(event)) << "nothing was recorded yet";
  device().wait(other, event);  // for nothing

  device().fill(there, 256, 1, 256, 1, stream());
  device().record(event, stream());
  device().wait(other, event);
  device().copy(there + 256, 256, there, 256, 256, 1, other);
  device().record(event, other);  // does not change what the wait above waits for
  device().wait(stream(), event);
  device().fill(there, 256, 2, 256, 1, stream());

  const std::vector<uint8_t> got = read(device(), there, 512);
  EXPECT_EQ(got[0], 2);
  EXPECT_EQ(got[256], 1);
  device().wait_on_host(event);
  EXPECT_TRUE(device().reached(event));
  device().free_event(event);
  device().free_stream(other);
}

TEST_F(AcceleratorTest, an_event_that_is_only_asked_for_is_reached) {
  const Accelerator::Event event = device().new_event();
  Arena arena("test", 1 << 20, &device());
  device().fill(arena.take(16, "x"), 16, 1, 16, 1, stream());
  device().record(event, stream());
  while (!device().reached(event)) std::this_thread::yield();
  device().free_event(event);
}

TEST_F(AcceleratorTest, threads_use_streams_of_their_own_at_once) {
  auto work = [&](unsigned seed) {
    const Accelerator::Stream own = device().new_stream();
    Arena arena("test", 1 << 20, &device());
    void* const there = arena.take(4096, "x");
    for (unsigned i = 0; i < 50; i++) {
      const std::vector<uint8_t> from = bytes_of(4096, seed + i);
      std::vector<uint8_t> back(4096);
      device().copy(there, 4096, from.data(), 4096, 4096, 1, own);
      device().copy(back.data(), 4096, there, 4096, 4096, 1, own);
      device().synchronize(own);
      ASSERT_EQ(back, from);
    }
    device().free_stream(own);
  };
  std::thread left(work, 0), right(work, 100);
  left.join(), right.join();
}

TEST_F(AcceleratorTest, an_arena_grows_without_moving_and_gives_its_memory_back) {
  const int64_t before = device().free_bytes();
  {
    Arena arena("test", int64_t(1) << 40, &device());  // more than there is: only addresses
    EXPECT_EQ(device().free_bytes(), before);
    void* const first = arena.take(1000, "first");
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 256, 0u);
    device().fill(first, 1000, 9, 1000, 1, stream());
    void* second = nullptr;
    for (int i = 0; i < 5; i++) second = arena.take(40 << 20, "more");
    device().fill(second, 40 << 20, 8, 40 << 20, 1, stream());
    EXPECT_EQ(read(device(), first, 1000), std::vector<uint8_t>(1000, 9));
    EXPECT_LE(device().free_bytes(), before - (int64_t(200) << 20));
  }
  EXPECT_EQ(device().free_bytes(), before);
}

TEST_F(AcceleratorTest, a_full_device_tells_what_is_free) {
  Arena arena("test", int64_t(1) << 44, &device());
  try {
    arena.take(device().properties().memory_bytes + (int64_t(1) << 30), "too much");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::io);
    const std::string free = cat(byte_text(device().free_bytes()), " of ",
                                 byte_text(device().properties().memory_bytes), " are free");
    EXPECT_NE(std::string(error.what()).find(free), std::string::npos) << error.what();
  }
}

TEST_F(AcceleratorTest, transfers_follow_the_context) {
  OpContext on_device_context(1, "", 1 << 20);
  const Context& ctx = on_device_context.context();
  Arena arena("test", 1 << 20, &device());
  std::vector<float> values(12);
  std::iota(values.begin(), values.end(), 1.f);

  const Tensor there = to_device(ctx, values, arena, "values");
  EXPECT_EQ(there.device, Device::cuda);
  EXPECT_EQ(to_host<float>(ctx, there), values);

  Tensor matrix = there;
  matrix.rank = 2, matrix.shape = {3, 4}, matrix.row_stride = 4;
  clear(ctx, matrix.slice_columns(1, 3));
  EXPECT_EQ(to_host<float>(ctx, matrix), (std::vector<float>{1, 0, 0, 4, 5, 0, 0, 8, 9, 0, 0, 12}));
  EXPECT_EQ(to_host<float>(ctx, matrix.slice_columns(0, 1)), (std::vector<float>{1, 5, 9}));

  ArenaScope scope(*ctx.scratch);
  const Tensor again = to_device(ctx, there, "x");
  EXPECT_EQ(again.data, there.data) << "it is there already";
  const Tensor host = make_tensor(values.data(), {12});
  const Tensor copied = to_device(ctx, host, "x");
  EXPECT_EQ(to_host<float>(ctx, copied), values);
}

}  // namespace
}  // namespace jambalaya::test
