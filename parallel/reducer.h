// Communication beside the computation: one thread a rank takes numbered jobs in order, and gradients are
// summed in buckets while the backward goes on.
#pragma once
#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/context.h"
#include "parallel/communicator.h"

namespace jambalaya {

/// Runs jobs one after another on a thread of its own, which starts with the first one. Communicators that
/// jobs use belong to this thread; every rank pushes the same jobs in the same order.
///
/// On a device a job enqueues on the communication stream. What it enqueues runs after all that the computing
/// thread had enqueued before push(), and before all that it enqueues after wait(); the host waits for the
/// enqueuing alone.
class CommunicationQueue {
 public:
  explicit CommunicationQueue(const DeviceLink& link = {});
  ~CommunicationQueue();
  /// Returns the job's number, from 1. Rethrows the first error of a job.
  int64_t push(std::function<void()> job);
  /// Waits until the job of that number (and all before it) is done; 0 is none. Rethrows the first error of a
  /// job: after one, the queue runs no more jobs, for the ranks no longer agree on what comes next.
  void wait(int64_t job);
  /// Waits for all.
  void drain();
  /// For the jobs' own copies and ops: the communication stream, a scratch arena and one thread. Used by jobs
  /// alone.
  Context& context() { return context_; }

 private:
  struct Job {
    std::function<void()> run;
    Accelerator::Event pushed = nullptr;  ///< what the computing thread had enqueued
  };
  /// Jobs whose end has an event of its own; that of job n serves job n + kEnds later. Who waits for a job
  /// that long ago then waits for a later one, which is late enough.
  static constexpr size_t kEnds = 64;

  void work();
  void run(const Job& job, int64_t number);
  void release_events();

  DeviceLink link_;
  ThreadPool pool_{1};
  Arena scratch_;
  Context context_;
  std::vector<Accelerator::Event> pushes_, free_;  ///< for Job::pushed: all, and those not in use
  std::array<Accelerator::Event, kEnds> ends_{};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  int64_t pushed_ = 0, done_ = 0;
  bool stop_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

/// Sums flat gradients over the ranks of a group, in buckets of neighbouring groups that are final.
class GradientReducer {
 public:
  /// Element ranges of `gradients` (flat f32) that become final together, one per group; they must tile it in
  /// order.
  struct Range {
    int64_t begin = 0, end = 0;
    int unit = 0;  ///< told in traces
  };
  /// `ranks` is used by jobs of `queue` alone.
  GradientReducer(CommunicationQueue& queue, Communicator& ranks, Tensor gradients, std::vector<Range> groups,
                  int64_t bucket_bytes);

  /// Call at the start of the last micro-batch of a step.
  void begin();
  /// Group g is final. Neighbouring final groups are sent together once they fill a bucket.
  void ready(int group);
  /// Sends what is left. When the queue has drained, every rank holds the same sums, bit for bit.
  void flush();

 private:
  void send(size_t first, size_t last);

  CommunicationQueue& queue_;
  Communicator& ranks_;
  Tensor gradients_;
  std::vector<Range> groups_;
  int64_t bucket_;  ///< elements
  std::vector<uint8_t> final_, sent_;
};

}  // namespace jambalaya
