// What moves the data of collectives: MPI between host memories (communicator_mpi.cpp), NCCL between GPUs
// (communicator_nccl.cpp), or MPI for tensors on GPUs (communicator_staged.cpp). Communicator checks,
// numbers, counts and watches; these get arguments that are sound, on groups of more than one rank.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/tensor.h"

namespace jambalaya {

enum class Reduce : uint8_t { sum, max, min };

/// All tensors are packed. What each call does is said at the function of that name in Communicator.
class CollectiveBackend {
 public:
  CollectiveBackend(int rank, int size) : rank_(rank), size_(size) {}
  virtual ~CollectiveBackend() = default;
  CollectiveBackend(const CollectiveBackend&) = delete;
  CollectiveBackend& operator=(const CollectiveBackend&) = delete;
  int rank() const { return rank_; }
  int size() const { return size_; }

  /// x is not empty.
  virtual void all_reduce(Tensor x, Reduce op) = 0;
  virtual void all_gather(Tensor in, Tensor out, const std::vector<int64_t>& rows) = 0;
  virtual void reduce_scatter(Tensor in, Tensor out, const std::vector<int64_t>& rows) = 0;
  virtual void all_to_all(Tensor in, const std::vector<int64_t>& send_starts,
                          const std::vector<int64_t>& send_rows, Tensor out,
                          const std::vector<int64_t>& receive_rows) = 0;
  /// Not empty; in and out lie apart.
  virtual void all_to_all_equal(Tensor in, Tensor out) = 0;
  virtual void shift(Tensor in, Tensor out) = 0;
  /// x is not empty.
  virtual void broadcast(Tensor x, int root) = 0;

 private:
  int rank_, size_;
};

/// Host memory: done at return.
class HostBackend : public CollectiveBackend {
 public:
  using CollectiveBackend::CollectiveBackend;
  virtual void barrier() = 0;
  /// Null where this rank is alone with its colour.
  virtual std::unique_ptr<HostBackend> split(int color) = 0;
};

/// Device memory: enqueued on one stream at return, after what was there and before what comes.
class DeviceBackend : public CollectiveBackend {
 public:
  using CollectiveBackend::CollectiveBackend;
  /// What has gone wrong with collectives that were enqueued, "" as far as is known. From any thread.
  virtual std::string failure() { return ""; }
};

}  // namespace jambalaya
