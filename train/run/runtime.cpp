#include "train/run/runtime.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

namespace jambalaya {

namespace {

int from_environment(std::initializer_list<const char*> names, int otherwise) {
  for (const char* name : names)
    if (const char* value = std::getenv(name)) return std::atoi(value);
  return otherwise;
}

/// mpirun -n 1 and -n 2 bind every rank to a single core by default. A rank that wants more threads than that
/// takes the whole machine back and picks its share itself.
std::vector<int> cores_for(int threads, int rank, int ranks) {
  std::vector<int> cores = allowed_cores();
  if (int(cores.size()) < threads) {
    cpu_set_t all;
    CPU_ZERO(&all);
    for (long i = 0; i < sysconf(_SC_NPROCESSORS_ONLN) && i < CPU_SETSIZE; i++) CPU_SET(size_t(i), &all);
    sched_setaffinity(0, sizeof all, &all);
    cores = allowed_cores();
  }
  if (int(cores.size()) < threads * ranks) return cores;  // bound by the launcher already, or oversubscribed
  return {cores.begin() + rank * threads, cores.begin() + (rank + 1) * threads};
}

std::unique_ptr<Mesh> make_mesh(const Layout& layout) {
  return std::make_unique<Mesh>(make_world_communicator(), layout);
}

constexpr int64_t kScratch = int64_t(1) << 40;  // address space: pages come when used

}  // namespace

int local_size() {
  return std::max(1, from_environment({"OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"}, 1));
}
int local_rank() { return from_environment({"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"}, 0); }

Runtime::Runtime(std::unique_ptr<Mesh> mesh, int threads, int rank, int ranks)
    : mesh_(std::move(mesh)), scratch_("scratch", kScratch) {
  if (threads <= 0) threads = std::max(1, int(sysconf(_SC_NPROCESSORS_ONLN)) / ranks);
  pool_ = std::make_unique<ThreadPool>(threads, ranks > 1, cores_for(threads, rank, ranks));
  context_ = {.ops = &cpu_ops(), .device = Device::cpu, .pool = pool_.get(), .scratch = &scratch_};
}

Runtime::Runtime(const Layout& layout, int threads, const std::string& device)
    : Runtime(make_mesh(layout), threads, local_rank(), local_size()) {
  if (device != "cpu" && device != "auto")
    throw Error(Exit::usage,
                cat("run.device = ", device, ": this build has the CPU backend; use cpu or auto"));
}

std::unique_ptr<Runtime> Runtime::single(int threads) {
  auto mesh = std::make_unique<Mesh>(make_single_communicator(), Layout{});
  return std::unique_ptr<Runtime>(new Runtime(std::move(mesh), threads, 0, 1));
}

}  // namespace jambalaya
