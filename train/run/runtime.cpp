#include "train/run/runtime.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "model/layout_limits.h"
#include "parallel/communicator_nccl.h"
#include "parallel/watchdog.h"
#include "train/run/log.h"

namespace jambalaya {

namespace {

int from_environment(std::initializer_list<const char*> names, int otherwise) {
  for (const char* name : names)
    if (const char* value = std::getenv(name)) return std::atoi(value);
  return otherwise;
}

int online_cores() { return std::max(1, int(sysconf(_SC_NPROCESSORS_ONLN))); }

/// mpirun -n 1 and -n 2 bind every rank to a single core by default. A rank that wants more threads than that
/// takes the whole machine back and keeps to its share of it, as do the threads that it starts later (loader,
/// communication). Ranks of one thread are left to the scheduler: their helpers must not queue up behind the
/// one that computes.
void keep_to_share(int threads, int rank, int ranks) {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int online = online_cores();
  if (threads > 1 && threads * ranks <= online)
    for (int i = rank * threads; i < (rank + 1) * threads; i++) CPU_SET(size_t(i), &set);
  else
    for (int i = 0; i < online && i < CPU_SETSIZE; i++) CPU_SET(size_t(i), &set);
  sched_setaffinity(0, sizeof set, &set);  // a refusal (cgroup, cpuset) leaves what was there
}

/// The watchdog comes first: a rank that never arrives must not keep the others waiting for it here.
std::unique_ptr<Communicator> make_world(const Layout& layout,
                                         const std::function<void(Communicator&)>& agree) {
  std::unique_ptr<Communicator> world = make_world_communicator();
  Watchdog::instance().start(*world, layout.deadline_s);
  if (agree) agree(*world);
  return world;
}

constexpr int64_t kScratch = int64_t(1) << 40;  // address space: pages come when used

}  // namespace

int local_size() {
  if (!launched_by_mpi()) return 1;

  return std::max(1, from_environment({"OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"}, 1));
}
int local_rank() { return from_environment({"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"}, 0); }

int default_threads() {
  const int cores = launched_by_mpi() ? online_cores() / local_size() : int(allowed_cores().size());
  return std::max(1, cores);
}

/// Communication has a stream of its own, so that it goes on beside the computation.
DeviceLink Runtime::make_link(Communicator& world, Transport wish) {
  DeviceLink link;
  const bool several = world.size() > 1;
  if (!device_.accelerator && wish == Transport::nccl && several)
    throw Error(Exit::layout,
                cat("parallel.transport = nccl cannot be used: NCCL moves tensors between GPUs, "
                    "and the ranks compute on the ",
                    device_.text, "; use auto, or a GPU for each rank"));
  if (!device_.accelerator) return link;
  link.accelerator = device_.accelerator.get();
  link.compute = link.accelerator->compute_stream();
  link.communication = link.accelerator->new_stream();
  link.transport = wish;
  std::string note;
  link.transport = choose_transport(world, link, &note);
  if (!note.empty())
    device_.text += cat("; ", note);
  else if (several && link.transport == Transport::nccl)
    device_.text += cat("; tensors travel by NCCL ", nccl_version());
  else if (several)
    device_.text += "; tensors travel over host memory and MPI (parallel.transport = staged)";
  return link;
}

Runtime::Runtime(std::unique_ptr<Communicator> world, const Layout& layout, const RunSection& run, int rank,
                 int ranks)
    : device_(choose_device(*world, run.device)), link_(make_link(*world, run.transport)) {
  Accelerator* const accelerator = device_.accelerator.get();
  const int64_t free_before = accelerator ? accelerator->free_bytes() : 0;
  mesh_ = std::make_unique<Mesh>(std::move(world), layout, link_);
  if (accelerator) taken_by_groups_ = std::max<int64_t>(0, free_before - accelerator->free_bytes());
  // No arena on a device can be larger than its memory.
  scratch_ = std::make_unique<Arena>(
      "scratch", accelerator ? accelerator->properties().memory_bytes : kScratch, accelerator);
  const int threads = run.threads > 0 ? run.threads : default_threads();
  if (launched_by_mpi())
    keep_to_share(threads, rank, ranks);  // without a launcher the mask is the user's (taskset)
  pool_ = std::make_unique<ThreadPool>(threads);
  context_ = {.ops = accelerator ? &accelerator->ops() : &cpu_ops(),
              .device = accelerator ? Device::cuda : Device::cpu,
              .pool = pool_.get(),
              .scratch = scratch_.get(),
              .accelerator = accelerator,
              .stream = link_.compute};
}

Runtime::Runtime(const Layout& layout, const ModelConfig& model, const RunSection& run,
                 const std::function<void(Communicator&)>& agree)
    : Runtime(
          [&] {
            std::unique_ptr<Communicator> world = make_world(layout, agree);
            check_layout(world->size(), layout, layout_limits(model));
            return world;
          }(),
          layout, run, local_rank(), local_size()) {
  if (!lead()) return;
  if (!device_.warning.empty()) log_warning(device_.warning);
  for (const std::string& warning : mesh_->warnings()) log_warning(warning);
}

Runtime::~Runtime() {
  mesh_ = nullptr;
  if (link_) link_.accelerator->free_stream(link_.communication);
}

std::unique_ptr<Runtime> Runtime::single(int threads, const std::string& device) {
  RunSection run;
  run.threads = threads, run.device = device;
  return std::unique_ptr<Runtime>(new Runtime(make_single_communicator(), Layout{}, run, 0, 1));
}

}  // namespace jambalaya
