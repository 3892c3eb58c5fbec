// Sums gradients over data ranks in buckets while the backward goes on: one communication thread takes
// numbered jobs in order; the step waits for it once, at the end.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "parallel/communicator.h"

namespace jambalaya {

/// Runs jobs one after another on a thread of its own. While jobs are pending no other thread may use MPI.
class CommunicationQueue {
 public:
  CommunicationQueue();
  ~CommunicationQueue();
  void push(std::function<void()> job);
  /// Waits until all jobs are done; rethrows the first error of one.
  void drain();

 private:
  void work();
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool busy_ = false, stop_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

class GradientReducer {
 public:
  /// Element ranges of `gradients` (flat f32) that become final together, one per group; they must tile it in
  /// order.
  struct Range {
    int64_t begin = 0, end = 0;
  };
  GradientReducer(Communicator& data, Tensor gradients, std::vector<Range> groups, int64_t bucket_bytes);

  /// Call at the start of the last micro-batch of a step.
  void begin();
  /// Group g is final. Neighbouring final groups are sent together once they fill a bucket.
  void ready(int group);
  /// Sends what is left and waits: after it every rank holds the same sums, bit for bit.
  void finish();
  double wait_seconds() const { return wait_seconds_; }  ///< of the last finish(): communication not hidden

 private:
  void send(int64_t begin, int64_t end);

  Communicator& data_;
  Tensor gradients_;
  std::vector<Range> groups_;
  int64_t bucket_;  ///< elements
  std::vector<uint8_t> final_, sent_;
  CommunicationQueue queue_;
  double wait_seconds_ = 0;
};

}  // namespace jambalaya
