#include "kernels/thread_pool.h"

#include <sched.h>

#include <utility>

namespace jambalaya {

namespace {
// Long enough to bridge the gap between two ops of a step, short enough not to steal a busy neighbour's core.
constexpr int kSpins = 4000;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

void pin_to(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(size_t(core), &set);
  sched_setaffinity(0, sizeof set, &set);  // a refusal costs speed, not correctness
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

ThreadPool::ThreadPool(int threads, bool pin, std::vector<int> cores) : cores_(std::move(cores)), pin_(pin) {
  if (cores_.empty()) cores_ = allowed_cores();
  if (pin_) pin_to(cores_[0]);
  for (int i = 1; i < threads; i++) helpers_.emplace_back([this, i] { help(i); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  epoch_++;
  epoch_.notify_all();
  for (auto& t : helpers_) t.join();
}

void ThreadPool::claim() {
  for (int64_t i; (i = next_.fetch_add(1)) < chunks_;) work_(argument_, i);
}

void ThreadPool::help(int index) {
  if (pin_) pin_to(cores_[size_t(index) % cores_.size()]);
  for (uint32_t seen = 0;;) {
    for (int s = 0; s < kSpins && epoch_.load() == seen; s++) relax();
    epoch_.wait(seen);
    seen = epoch_.load();
    if (stop_) return;
    claim();
    if (busy_.fetch_sub(1) == 1) busy_.notify_one();
  }
}

void ThreadPool::run_erased(int64_t chunks, Work work, void* argument) {
  chunks_ = chunks;
  work_ = work;
  argument_ = argument;
  next_ = 0;
  busy_ = uint32_t(helpers_.size());
  epoch_++;
  epoch_.notify_all();
  claim();
  for (int s = 0; s < kSpins && busy_.load(); s++) relax();
  for (uint32_t left; (left = busy_.load());) busy_.wait(left);
}

}  // namespace jambalaya
