// Threads that live as long as the process. Work is cut into chunks by shape alone, never by thread count,
// so that results do not depend on how many threads there are.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace jambalaya {

class ThreadPool {
 public:
  /// `threads` counts the caller.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return int(helpers_.size()) + 1; }

  /// Calls f(chunk) once for every chunk in [0, chunks), in any order, on any thread, and waits for all.
  /// Chunks are claimed one by one: a descheduled helper delays at most the chunk it holds. Not reentrant.
  template <class F>
  void run(int64_t chunks, F&& f) {
    if (chunks <= 1 || helpers_.empty()) {
      for (int64_t i = 0; i < chunks; i++) f(i);
      return;
    }
    run_erased(
        chunks, [](void* p, int64_t i) { (*static_cast<std::remove_reference_t<F>*>(p))(i); },
        const_cast<void*>(static_cast<const void*>(&f)));
  }
  /// f(begin, end) over [0, n) in chunks of `grain` elements.
  template <class F>
  void run_range(int64_t n, int64_t grain, F&& f) {
    run((n + grain - 1) / grain, [&](int64_t c) { f(c * grain, n < (c + 1) * grain ? n : (c + 1) * grain); });
  }

 private:
  using Work = void (*)(void*, int64_t);
  /// Which job is open and the next chunk of it, in one word: a claim succeeds only within the job it was
  /// made for, so the caller never has to wait for a helper that holds no chunk (it may be descheduled on a
  /// busy machine).
  static constexpr uint64_t kClosed = 0xffffffff;
  void run_erased(int64_t chunks, Work work, void* argument);
  void help();
  void claim(uint32_t job);

  std::vector<std::thread> helpers_;
  std::atomic<uint64_t> ticket_{kClosed};   ///< job number << 32 | next chunk
  std::atomic<uint32_t> job_{0}, done_{0};  ///< open job; chunks of it that are finished
  std::atomic<uint32_t> chunks_{0};
  std::atomic<Work> work_{nullptr};
  std::atomic<void*> argument_{nullptr};
  std::atomic<bool> stop_{false};
};

/// Cores that this process may run on (its affinity mask).
std::vector<int> allowed_cores();

}  // namespace jambalaya
