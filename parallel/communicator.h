// The collectives that the framework uses, behind one interface: MPI for host memory (communicator_mpi.cpp),
// one rank without MPI (communicator_single.cpp), NCCL for device memory. Every rank of a group calls the
// same sequence; calls are numbered, so that a hang can name the one that is stuck.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/tensor.h"

namespace jambalaya {

enum class Reduce : uint8_t { sum, max, min };

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  const std::string& name() const { return name_; }

  /// In place, packed f32, f64, i32, i64 or u8 tensors. Sums are taken in rank order: the same bits every
  /// time.
  virtual void all_reduce(Tensor x, Reduce op = Reduce::sum) = 0;
  /// out [size * n] <- in [n] of every rank, in rank order.
  virtual void all_gather(Tensor in, Tensor out) = 0;
  /// out [n] <- sum over ranks of in [size * n], this rank's part.
  virtual void reduce_scatter(Tensor in, Tensor out) = 0;
  /// Rows of `in` to each rank by `send_rows`, rows into `out` by `receive_rows` (counts per rank).
  virtual void all_to_all(Tensor in, const std::vector<int64_t>& send_rows, Tensor out,
                          const std::vector<int64_t>& receive_rows) = 0;
  virtual void broadcast(Tensor x, int root) = 0;
  virtual void barrier() = 0;
  /// Ranks of equal colour form a group, ordered by their rank here.
  virtual std::unique_ptr<Communicator> split(int color, const std::string& name) = 0;

  int64_t calls() const { return calls_; }  ///< number of the last collective
  int64_t bytes() const { return bytes_; }  ///< sent by this rank, all collectives

 protected:
  explicit Communicator(std::string name) : name_(std::move(name)) {}
  int64_t calls_ = 0, bytes_ = 0;

 private:
  std::string name_;
};

std::unique_ptr<Communicator> make_single_communicator();
/// Starts MPI when this process was launched by mpirun or srun (and the build has MPI), else one rank.
std::unique_ptr<Communicator> make_world_communicator();
/// Ends MPI if it was started. `code` != 0 takes the other ranks down too.
void finish_world(int code);
/// True under mpirun or srun, known before MPI is started.
bool launched_by_mpi();

/// Broadcasts of values that live on the host.
void broadcast_string(Communicator& world, std::string& text, int root = 0);

}  // namespace jambalaya
