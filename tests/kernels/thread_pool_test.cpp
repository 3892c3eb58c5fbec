#include "kernels/thread_pool.h"

#include <gtest/gtest.h>

#include <numeric>

namespace jambalaya {
namespace {

TEST(ThreadPool, every_chunk_runs_exactly_once) {
  for (int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 2000; round++) {
      const int64_t chunks = round % 17;
      std::vector<std::atomic<int>> runs(17);
      pool.run(chunks, [&](int64_t i) { runs[size_t(i)]++; });
      for (int64_t i = 0; i < 17; i++)
        ASSERT_EQ(runs[size_t(i)], i < chunks) << threads << " threads, round " << round;
    }
  }
}

TEST(ThreadPool, what_chunks_wrote_is_seen_by_the_caller) {
  ThreadPool pool(3);
  std::vector<int64_t> values(1000);
  for (int64_t round = 1; round < 500; round++) {
    pool.run_range(1000, 37, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) values[size_t(i)] += i;
    });
    ASSERT_EQ(std::accumulate(values.begin(), values.end(), int64_t(0)), round * 999 * 500);
  }
}

}  // namespace
}  // namespace jambalaya
