// The collectives that the framework uses, behind one interface for tensors in host and in device memory.
// Every rank of a group calls the same sequence; calls are numbered, so that a hang can name the one that is
// stuck. A communicator checks, counts and reports (parallel/watchdog.h, kernels/trace.h); its backends move
// the data (parallel/collective_backend.h).
//
// A communicator is used by one thread at a time; different communicators may be used at the same time.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/tensor.h"
#include "parallel/collective_backend.h"
#include "parallel/device_link.h"

namespace jambalaya {

enum class Collective : uint8_t {
  all_reduce,
  all_gather,
  reduce_scatter,
  all_to_all,
  shift,
  broadcast,
  barrier,
  split,
  finish  ///< the end of MPI itself
};
constexpr size_t kCollectives = 9;
const char* name_of(Collective kind);  ///< "all-reduce", ...

struct CollectiveCount {
  int64_t calls = 0;
  int64_t bytes = 0;  ///< sent by this rank to others
};

class DeviceSide;

/// Tensors are packed. Rows are counted in dimension 0; a part without rows takes part all the same.
///
/// Tensors in host memory (Tensor::device) are done at return. Those in device memory need attach(); they are
/// enqueued on the stream given there, after what was enqueued before and visible to what is enqueued later.
/// The tensors of one call are all of one kind, on every rank.
class Communicator {
 public:
  /// `host` moves host tensors; null for a group of one.
  Communicator(std::string name, std::unique_ptr<HostBackend> host);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& name() const { return name_; }

  /// Collective. From now on takes tensors in the memory of link.accelerator too, enqueued on `stream`.
  /// link.transport is nccl or staged (choose_transport), the same on all ranks. The accelerator and the
  /// stream must outlive this communicator.
  void attach(const DeviceLink& link, Accelerator::Stream stream);
  /// The same by way of `other`, a group of the same ranks that the same thread uses: it costs no memory.
  void attach(const Communicator& other) { device_ = other.device_; }

  /// In place; f32, bf16, f64, i32, i64 or u8. Sums are taken in rank order: the same bits every time. bf16
  /// travels as it is, is added in fp32 and rounded once. NCCL has an order of its own and rounds bf16 at
  /// every hop (docs/numerics.md).
  void all_reduce(Tensor x, Reduce op = Reduce::sum);
  /// out [size * n] <- in [n] of every rank, in rank order. `in` may lie at its place in `out`.
  void all_gather(Tensor in, Tensor out);
  /// The same with rows[r] rows from rank r: out [sum of rows, ...]. Also with `in` already in `out`.
  void all_gather_rows(Tensor in, Tensor out, const std::vector<int64_t>& rows);
  /// out [n] <- sum over ranks of in [size * n], this rank's part. `out` may lie at its place in `in`, which
  /// is otherwise unchanged. Types and order of the sum as in all_reduce.
  void reduce_scatter(Tensor in, Tensor out);
  /// The same with rows[r] rows for rank r: in [sum of rows, ...].
  void reduce_scatter_rows(Tensor in, Tensor out, const std::vector<int64_t>& rows);
  /// out [size * n]: block r <- block rank() of rank r's in [size * n]. They must not overlap.
  void all_to_all(Tensor in, Tensor out);
  /// Rows of `in`, in rank order, to each rank by `send_rows`; rows into `out`, in rank order, by
  /// `receive_rows` (counts per rank).
  void all_to_all(Tensor in, const std::vector<int64_t>& send_rows, Tensor out,
                  const std::vector<int64_t>& receive_rows);
  /// The rows for rank r begin at row send_starts[r]: the ranges may overlap, in any order, so that the same
  /// rows can go to several ranks.
  void all_to_all(Tensor in, const std::vector<int64_t>& send_starts, const std::vector<int64_t>& send_rows,
                  Tensor out, const std::vector<int64_t>& receive_rows);
  /// Sends `in` to rank + 1 and receives `out` from rank - 1, both cyclic. Shapes may differ from rank to
  /// rank, but `out` has as many bytes as the left rank's `in`.
  void shift(Tensor in, Tensor out);
  void broadcast(Tensor x, int root);
  void barrier();
  /// Ranks of equal colour form a group, ordered by their rank here. It takes host tensors (attach()).
  std::unique_ptr<Communicator> split(int color, const std::string& name);

  /// What this rank called and sent, by kind. Bytes are those of algorithms that send no more than needed,
  /// for n bytes in all, of which p are this rank's part, on s ranks: all-gather p (s - 1); reduce-scatter
  /// n - p; all-reduce n - p + p (s - 1) with p = [n r / s, n (r + 1) / s) elements, 2 n (s - 1) over all
  /// ranks together; all-to-all what goes to other ranks; shift n; broadcast n (s - 1) from the root.
  /// (Messages below 16 KiB may be sent whole to everyone, to wait once instead of twice.)
  const CollectiveCount& count(Collective kind) const { return counts_[size_t(kind)]; }
  int64_t calls() const { return calls_; }  ///< number of the last collective
  int64_t bytes() const;                    ///< sent by this rank, all kinds

 private:
  class Call;  ///< one numbered collective, from begin to end

  bool on_device(const Tensor& x) const;
  CollectiveBackend& backend(bool device) const;
  void copy(const Tensor& in, const Tensor& out) const;

  std::string name_;
  const char* label_;  ///< the name, for as long as the process lives
  int rank_, size_;
  std::unique_ptr<HostBackend> host_;   ///< null: one rank
  std::shared_ptr<DeviceSide> device_;  ///< null: host tensors alone
  int64_t calls_ = 0;
  std::array<CollectiveCount, kCollectives> counts_{};
  std::vector<int64_t> equal_rows_, starts_;  ///< arguments of the general forms
};

std::unique_ptr<Communicator> make_single_communicator(const std::string& name = "world");
/// Starts MPI when this process was launched by mpirun or srun (and the build has MPI), else one rank.
/// Throws Error(layout) when MPI cannot be used from several threads at once.
std::unique_ptr<Communicator> make_world_communicator();
/// Ends MPI if it was started. `code` != 0 takes the other ranks down too.
void finish_world(int code);
/// True under mpirun or srun, known before MPI is started.
bool launched_by_mpi();
/// How many processes mpirun or srun started together with this one, known before MPI is started; 1 without.
int launched_ranks();

/// Broadcasts of values that live on the host.
void broadcast_string(Communicator& world, std::string& text, int root = 0);

}  // namespace jambalaya
