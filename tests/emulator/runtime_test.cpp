// The emulated run time's own promises: tasks run when somebody waits, so that host code without a wait sees
// what it must not rely on.
#include "tests/emulator/runtime.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <thread>

#include "tests/emulator/memory.h"

namespace {

struct Stream {
  Stream() { cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking); }
  ~Stream() { cudaStreamDestroy(handle); }
  operator cudaStream_t() const { return handle; }
  cudaStream_t handle = nullptr;
};
struct Event {
  Event() { cudaEventCreateWithFlags(&handle, cudaEventDisableTiming); }
  ~Event() { cudaEventDestroy(handle); }
  operator cudaEvent_t() const { return handle; }
  cudaEvent_t handle = nullptr;
};
struct DeviceFloats {
  explicit DeviceFloats(size_t n) : data(static_cast<float*>(emulator::reserve_device(n * 4))) {
    EXPECT_TRUE(emulator::commit_device(data, n * 4));
  }
  ~DeviceFloats() { emulator::release_device(data); }
  float* data;
};
struct PinnedFloats {
  explicit PinnedFloats(size_t n) { cudaHostAlloc(reinterpret_cast<void**>(&data), n * 4, 0); }
  ~PinnedFloats() { cudaFreeHost(data); }
  float* data = nullptr;
};

void copy(float* to, const float* from, size_t n, cudaStream_t stream) {
  ASSERT_EQ(cudaMemcpyAsync(to, from, n * 4, cudaMemcpyDefault, stream), cudaSuccess);
}

TEST(Runtime, a_host_read_without_a_wait_sees_poison) {
  Stream stream;
  DeviceFloats there(4);
  PinnedFloats back(4);
  const float from[4] = {1, 2, 3, 4};
  copy(there.data, from, 4, stream);
  copy(back.data, there.data, 4, stream);
  EXPECT_TRUE(std::isnan(back.data[0]));
  cudaStreamSynchronize(stream);
  EXPECT_EQ(back.data[3], 4);
}

TEST(Runtime, device_memory_that_nobody_wrote_is_poison) {
  Stream stream;
  DeviceFloats there(1 << 16);
  float back = 0;
  copy(&back, there.data + 65535, 1, stream);
  cudaStreamSynchronize(stream);
  EXPECT_TRUE(std::isnan(back));
}

TEST(RuntimeDeathTest, host_code_that_touches_device_memory_dies) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  DeviceFloats there(4);
  EXPECT_DEATH(there.data[0] = 1, "");
  Stream stream;
  cudaMemsetAsync(there.data, 0, 16, stream);
  cudaStreamSynchronize(stream);
  EXPECT_DEATH(std::fprintf(stderr, "%g", double(there.data[0])), "") << "also after a task has used it";
}

TEST(Runtime, a_page_locked_source_that_changes_too_early_shows) {
  Stream stream;
  DeviceFloats there(1);
  PinnedFloats from(1);
  float pageable = 5, back[2] = {};
  from.data[0] = 5;
  copy(there.data, from.data, 1, stream);
  from.data[0] = 6;
  copy(&back[0], there.data, 1, stream);
  copy(there.data, &pageable, 1, stream);
  pageable = 6;
  copy(&back[1], there.data, 1, stream);
  cudaStreamSynchronize(stream);
  EXPECT_EQ(back[0], 6) << "was read before the stream came to it";
  EXPECT_EQ(back[1], 5) << "pageable memory is read at the call";
}

TEST(Runtime, waiting_for_an_event_runs_what_comes_before_it_and_nothing_else) {
  Stream first, second;
  Event event;
  std::string order;
  emulator::enqueue(first, [&] { order += 'a'; });
  cudaEventRecord(event, first);
  emulator::enqueue(first, [&] { order += 'b'; });
  cudaStreamWaitEvent(second, event);
  cudaEventRecord(event, first);  // the wait above is for the record before
  emulator::enqueue(second, [&] { order += 'c'; });
  EXPECT_EQ(order, "");
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  cudaStreamSynchronize(second);
  EXPECT_EQ(order, "ac");
  cudaEventSynchronize(event);
  EXPECT_EQ(order, "acb");
}

TEST(Runtime, what_a_task_throws_is_told_once_by_the_next_wait_and_later_tasks_are_dropped) {
  Stream stream;
  bool ran = false;
  emulator::enqueue(stream, [] { throw std::runtime_error("task failed"); });
  emulator::enqueue(stream, [&] { ran = true; });
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
  EXPECT_THROW(cudaStreamSynchronize(stream), std::runtime_error);
  EXPECT_FALSE(ran);
  emulator::enqueue(stream, [&] { ran = true; });
  cudaStreamSynchronize(stream);
  EXPECT_TRUE(ran);
}

TEST(Runtime, a_stream_that_waits_for_a_failed_one_fails_too) {
  Stream first, second;
  Event event;
  bool ran = false;
  emulator::enqueue(first, [] { throw std::runtime_error("task failed"); });
  cudaEventRecord(event, first);
  cudaStreamWaitEvent(second, event);
  emulator::enqueue(second, [&] { ran = true; });
  EXPECT_THROW(cudaStreamSynchronize(second), std::runtime_error);
  EXPECT_FALSE(ran);
  EXPECT_THROW(cudaStreamSynchronize(first), std::runtime_error);
}

TEST(Runtime, a_task_that_waits_for_its_own_stream_is_refused) {
  Stream stream;
  emulator::enqueue(stream, [&] { cudaStreamSynchronize(stream); });
  EXPECT_THROW(cudaStreamSynchronize(stream), std::logic_error);
}

TEST(Runtime, an_event_that_is_only_asked_for_is_reached) {
  Stream stream;
  Event event;
  cudaEventRecord(event, stream);
  while (cudaEventQuery(event) == cudaErrorNotReady) std::this_thread::yield();
}

TEST(Runtime, a_task_that_blocks_does_not_hold_up_other_streams) {
  Stream blocked, other;
  std::atomic<bool> free{false};
  emulator::enqueue(blocked, [&] {
    while (!free) std::this_thread::yield();
  });
  emulator::enqueue(other, [&] { free = true; });  // nobody waits for it
  cudaStreamSynchronize(blocked);
  EXPECT_TRUE(free);
}

TEST(Runtime, threads_that_wait_for_one_stream_see_all_of_its_work) {
  Stream stream;
  DeviceFloats there(1);
  int sum = 0;
  for (int round = 0; round < 200; round++) {
    Event event;
    for (int i = 0; i < 5; i++) emulator::enqueue(stream, [&] { sum++, there.data[0] = float(sum); });
    cudaEventRecord(event, stream);
    std::thread other([&] { cudaEventSynchronize(event); });
    cudaStreamSynchronize(stream);
    ASSERT_EQ(sum, 5 * (round + 1));
    other.join();
  }
}

TEST(Runtime, misuse_returns_the_errors_of_the_real_functions) {
  Stream stream;
  DeviceFloats there(4);
  float host[4] = {};
  EXPECT_EQ(cudaMemcpyAsync(there.data, nullptr, 16, cudaMemcpyDefault, stream), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpyAsync(there.data, host, 16, cudaMemcpyDeviceToHost, stream), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy2DAsync(there.data, 4, host, 8, 8, 2, cudaMemcpyDefault, stream),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemsetAsync(host, 0, 16, stream), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(host), cudaErrorInvalidValue);
  EXPECT_EQ(cudaSetDevice(-1), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaEventRecord(nullptr, stream), cudaErrorInvalidResourceHandle);
}

TEST(Runtime, memory_is_counted_and_comes_to_an_end) {
  size_t before = 0, after = 0, total = 0;
  cudaMemGetInfo(&before, &total);
  {
    DeviceFloats there(1 << 20);
    cudaMemGetInfo(&after, &total);
    EXPECT_EQ(after, before - (4 << 20));
    void* const large = emulator::reserve_device(total * 2);
    EXPECT_FALSE(emulator::commit_device(large, total * 2));
    emulator::release_device(large);
  }
  cudaMemGetInfo(&after, &total);
  EXPECT_EQ(after, before);
}

TEST(Runtime, time_between_events_is_that_between_their_tasks) {
  Stream stream;
  Event begin, end;
  float milliseconds = -1;
  cudaEventRecord(begin, stream);
  emulator::enqueue(stream, [] { std::this_thread::sleep_for(std::chrono::milliseconds(5)); });
  cudaEventRecord(end, stream);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin, end), cudaErrorNotReady);
  cudaStreamSynchronize(stream);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin, end), cudaSuccess);
  EXPECT_GE(milliseconds, 5);
}

}  // namespace
