// What a process needs before a model: its ranks, threads, scratch memory and backend.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "kernels/ops.h"
#include "parallel/mesh.h"
#include "train/config.h"

namespace jambalaya {

class Runtime {
 public:
  /// Starts MPI when launched by it, and the watchdog over its ranks. threads = 0: the machine's cores shared
  /// among its ranks. `agree` is called with the world as soon as there is one, before layout and model are
  /// looked at: it may be what finds out the model. Throws Error(layout) when ranks or model do not admit the
  /// layout.
  Runtime(const Layout& layout, const ModelConfig& model, int threads, const std::string& device,
          const std::function<void(Communicator&)>& agree = {});
  /// One rank, no MPI: commands that work on one file.
  static std::unique_ptr<Runtime> single(int threads);

  Mesh& mesh() { return *mesh_; }
  Context& context() { return context_; }
  bool lead() const { return mesh_->rank() == 0; }
  int threads() const { return pool_->size(); }
  int64_t scratch_high_water() const { return scratch_.high_water(); }

 private:
  Runtime(std::unique_ptr<Mesh> mesh, int threads, int local_rank, int local_size);
  std::unique_ptr<Mesh> mesh_;
  Arena scratch_;
  std::unique_ptr<ThreadPool> pool_;
  Context context_;
};

/// Ranks of this job on this host, from the launcher's environment (1 without one).
int local_size();
/// Threads of a rank whose run.threads is 0: its share of the machine's cores.
int default_threads();
int local_rank();

}  // namespace jambalaya
