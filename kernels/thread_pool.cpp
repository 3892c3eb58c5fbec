#include "kernels/thread_pool.h"

#include <sched.h>

#include <utility>

#include "kernels/error.h"

namespace jambalaya {

namespace {
// Long enough to bridge the gap between two ops of a step, short enough not to steal a busy neighbour's core.
constexpr int kSpins = 4000;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}
}  // namespace

std::vector<int> allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    for (int i = 0; i < CPU_SETSIZE; i++)
      if (CPU_ISSET(size_t(i), &set)) cores.push_back(i);
  if (cores.empty()) cores.push_back(0);
  return cores;
}

ThreadPool::ThreadPool(int threads) {
  for (int i = 1; i < threads; i++) helpers_.emplace_back([this] { help(); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  job_++;
  job_.notify_all();
  for (auto& t : helpers_) t.join();
}

void ThreadPool::claim(uint32_t job) {
  for (uint64_t ticket = ticket_.load(std::memory_order_acquire); uint32_t(ticket >> 32) == job;) {
    const uint32_t chunk = uint32_t(ticket), chunks = chunks_.load(std::memory_order_relaxed);
    if (chunk == kClosed || chunk >= chunks) return;
    const Work work = work_.load(std::memory_order_relaxed);
    void* const argument = argument_.load(std::memory_order_relaxed);
    // The job's fields change only while its ticket is closed: a claim that succeeds has read this job's.
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel,
                                       std::memory_order_acquire))
      continue;
    work(argument, chunk);
    if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == chunks) done_.notify_one();
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

void ThreadPool::help() {
  for (uint32_t seen = 0;;) {
    for (int s = 0; s < kSpins && job_.load() == seen; s++) relax();
    job_.wait(seen);
    seen = job_.load();
    if (stop_) return;
    claim(seen);
  }
}

void ThreadPool::run_erased(int64_t chunks, Work work, void* argument) {
  JAMBALAYA_CHECK(chunks < int64_t(kClosed), chunks, " chunks");
  const uint32_t job = job_.load() + 1, count = uint32_t(chunks);
  ticket_.store(uint64_t(job) << 32 | kClosed);
  chunks_.store(count, std::memory_order_relaxed);
  work_.store(work, std::memory_order_relaxed);
  argument_.store(argument, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  ticket_.store(uint64_t(job) << 32, std::memory_order_release);
  job_.store(job);
  job_.notify_all();
  claim(job);
  for (int s = 0; s < kSpins && done_.load() != count; s++) relax();
  for (uint32_t done; (done = done_.load()) != count;) done_.wait(done);
}

}  // namespace jambalaya
