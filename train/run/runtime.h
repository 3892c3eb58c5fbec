// What a process needs before a model: its device, ranks, threads and scratch memory.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "kernels/ops.h"
#include "parallel/mesh.h"
#include "train/config.h"
#include "train/run/device.h"

namespace jambalaya {

class Runtime {
 public:
  /// Starts MPI when launched by it, and the watchdog over its ranks, and opens the device that `run.device`
  /// asks for. run.threads = 0: the machine's cores shared among its ranks. `agree` is called with the world
  /// as soon as there is one, before layout and model are looked at: it may be what finds out the model.
  /// Throws Error(layout) when ranks or model do not admit the layout, or the ranks' GPUs the transport;
  /// Error(usage) when the device is not there.
  Runtime(const Layout& layout, const ModelConfig& model, const RunSection& run,
          const std::function<void(Communicator&)>& agree = {});
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;
  /// One rank, no MPI: commands that work on one file. `device`: a value of run.device.
  static std::unique_ptr<Runtime> single(int threads, const std::string& device = "cpu");

  Mesh& mesh() { return *mesh_; }
  Context& context() { return context_; }
  bool lead() const { return mesh_->rank() == 0; }
  int threads() const { return pool_->size(); }
  int64_t scratch_high_water() const { return scratch_->high_water(); }
  /// Where this rank computes, for people, and why not on a GPU where that was left open.
  const std::string& device_text() const { return device_.text; }
  /// Bytes of this rank's GPU that went away while its groups were made (NCCL's).
  int64_t taken_by_groups() const { return taken_by_groups_; }
  /// The memory that a rank's tensors lie in, for people; equal for ranks that share it.
  const std::string& memory_of(int rank) const { return device_.memories[size_t(rank)]; }

 private:
  Runtime(std::unique_ptr<Communicator> world, const Layout& layout, const RunSection& run, int local_rank,
          int local_size);
  DeviceLink make_link(Communicator& world, Transport wish);

  ComputeDevice device_;
  DeviceLink link_;
  int64_t taken_by_groups_ = 0;
  std::unique_ptr<Mesh> mesh_;
  std::unique_ptr<Arena> scratch_;
  std::unique_ptr<ThreadPool> pool_;
  Context context_;
};

/// Ranks of this job on this host, from the launcher's environment (1 without one).
int local_size();
/// Threads of a rank whose run.threads is 0: its share of the machine's cores.
int default_threads();
int local_rank();

}  // namespace jambalaya
