// Streams of the emulated device: queues of tasks that run only when someone waits for them, one after the
// other, on the thread that waits. So host code that does not wait reads what was there before (poison, in
// fresh memory), every time and not once in a hundred runs. JAMBALAYA_EMULATOR_EAGER=1 runs each task when it
// is enqueued (for debugging).
//
// A real device makes progress by itself. So that nothing hangs here that would not hang there, a helper
// thread runs the other streams too once a task has been running, or an event has been asked for in vain, for
// a third of a second.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace emulator {

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  /// A stream that helper threads know of.
  static std::shared_ptr<Stream> make();
  /// Runs what all streams hold. False when a task has thrown; synchronize() still tells of it.
  static bool run_all();

  /// Returns the task's number. A task may block (on other ranks): no lock is held while it runs. One that
  /// throws stops the stream: what comes after it is dropped until synchronize() has told of it.
  uint64_t enqueue(std::function<void()> task);
  /// Number of the last task enqueued; 0 without any.
  uint64_t last() const;
  /// Runs tasks up to this number, or waits for the thread that does. Throws what a task threw.
  void run_until(uint64_t number);
  /// As run_until(), for the host: afterwards the stream takes tasks again.
  void synchronize(uint64_t number);
  /// Runs all there is. False when a task has thrown.
  bool finish();
  /// Asks without waiting.
  bool reached(uint64_t number);

 private:
  friend class Helpers;
  using Clock = std::chrono::steady_clock;
  bool stuck(Clock::time_point now) const;  ///< a task runs for long, or reached() was false for long
  void run(uint64_t number);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  uint64_t enqueued_ = 0, executed_ = 0;
  bool running_ = false, asked_ = false;
  bool helped_ = false;  ///< a helper thread is at it
  std::thread::id runner_;
  Clock::time_point since_;        ///< the running task's start
  Clock::time_point asked_since_;  ///< first reached() in vain
  std::exception_ptr failure_;
};

}  // namespace emulator
