// jambalaya doctor: what this machine offers, how the ranks lie on it, and what to change. Under mpirun all
// ranks take part and rank 0 shows.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "kernels/cuda_library.h"
#include "kernels/ops.h"
#include "model/layout_limits.h"
#include "parallel/communicator_nccl.h"
#include "parallel/hosts.h"
#include "parallel/mesh.h"
#include "parallel/mpi_version.h"
#include "parallel/watchdog.h"
#include "train/commands/commands.h"
#include "train/commands/doctor_findings.h"
#include "train/commands/help_text.h"
#include "train/config.h"
#include "train/json.h"
#include "train/machine.h"
#include "train/run/log.h"
#include "train/run/runtime.h"

namespace jambalaya {

namespace {

/// Why this build cannot use GPU `number` of those that there are, "" when it can.
std::string problem_of(int number) {
  std::string why;
  try {
    return cuda_fits(number, &why) ? "" : why;
  } catch (const Error& e) {
    return e.what();
  }
}

Findings::Rank this_rank(const Machine& machine, int threads, const std::string& wish) {
  int gpus = wish == "cpu" ? 0 : cuda_devices();
  if (gpus > 0 && !problem_of(local_rank() % gpus).empty()) gpus = 0;
  return {machine.host, core_ranges(machine.allowed), int(machine.allowed.size()),
          threads ? threads : default_threads(), gpus};
}

/// Every rank's host, cores and threads, in rank order.
std::vector<Findings::Rank> gather_ranks(Communicator& world, const Findings::Rank& rank) {
  constexpr size_t kHost = 128, kCores = 120;
  struct Record {
    char host[kHost], cores[kCores];
    int32_t count, threads, gpus;
  };
  Record mine{};
  std::snprintf(mine.host, sizeof mine.host, "%s", rank.host.c_str());
  std::snprintf(mine.cores, sizeof mine.cores, "%s", rank.cores.c_str());
  mine.count = rank.core_count;
  mine.threads = rank.threads;
  mine.gpus = rank.gpus;
  std::vector<Record> all(static_cast<size_t>(world.size()));
  const auto bytes = int64_t(sizeof(Record));
  world.all_gather(make_tensor(&mine, DType::u8, {bytes}),
                   make_tensor(all.data(), DType::u8, {bytes * world.size()}));
  std::vector<Findings::Rank> ranks;
  for (const auto& record : all)
    ranks.push_back({record.host, record.cores, record.count, record.threads, record.gpus});
  return ranks;
}

/// As choose_device (train/run/device.h) would: the n-th rank of a host on its n-th GPU.
void place_on_devices(Findings& f, const std::string& wish) {
  const bool cuda = wish != "cpu" && std::all_of(f.ranks.begin(), f.ranks.end(),
                                                 [](const Findings::Rank& r) { return r.gpus > 0; });
  std::map<std::string, int> before;
  for (Findings::Rank& rank : f.ranks)
    rank.device = cuda ? cat("gpu ", before[rank.host]++ % rank.gpus) : "cpu";
  if (wish == "cuda" && !cuda)
    f.advice.push_back(
        "run.device = cuda, but not every rank has a GPU that this build can use: training would end with "
        "exit code 2");
}

/// As choose_transport (parallel/device_link.h) would. `obstacles`: by rank, why NCCL does not load there.
void place_transport(Findings& f, Transport wish, std::vector<std::string> obstacles) {
  if (f.ranks.size() == 1) return;
  const bool cpu = f.ranks[0].device == "cpu";
  const bool emulated = !f.gpus.empty() && f.gpus[0].properties.emulated;
  if (obstacles[0].empty() && emulated && !std::getenv("JAMBALAYA_NCCL_LIBRARY"))
    obstacles[0] = "the GPU is emulated";
  std::vector<std::string> hosts, gpus;
  for (const Findings::Rank& rank : f.ranks) {
    hosts.push_back(rank.host);
    gpus.push_back(emulated ? cat(gpus.size()) : rank.device);
  }
  const std::string why = cpu ? "the ranks compute on the CPU" : why_not_nccl(hosts, obstacles, gpus);
  if (why.empty() && wish != Transport::staged)
    f.transport = "NCCL";
  else
    f.transport = cpu ? "MPI" : "over host memory and MPI (staged)";
  if (!why.empty() && wish == Transport::nccl)
    f.advice.push_back(cat("parallel.transport = nccl, but ", why, ": training would end with exit code 4"));
  else if (!why.empty() && !cpu && wish == Transport::automatic)
    f.advice.push_back(cat("tensors would travel over host memory and MPI, which is slow: ", why));
}

void look_at_gpus(Findings& f) {
  f.cuda_library = cuda_library_contents();
  const int n = cuda_devices(&f.no_gpu);
  for (int i = 0; i < n; i++) {
    Findings::Gpu found;
    found.problem = problem_of(i);
    try {
      const std::unique_ptr<Accelerator> gpu = found.problem.empty() ? open_cuda(i) : nullptr;
      if (gpu) found = {gpu->properties(), gpu->free_bytes(), gpu->ops().name(), ""};
    } catch (const Error& e) {
      found.problem = e.what();
    }
    f.gpus.push_back(found);
  }
  f.nccl = nccl_version(&f.no_nccl);
}

/// Who takes part, and where each stands; an impossible layout is an error of the config's.
void place_ranks(Findings& f, const DoctorOptions& options) {
  const bool configured = !options.config.empty() || !options.set.empty();
  const Config config = configured ? load_config(options.config, options.set) : Config{};
  const Findings::Rank rank = this_rank(f.machine, config.run.threads, config.run.device);
  f.ranks = {rank};
  std::string no_nccl;
  nccl_version(&no_nccl);
  std::vector<std::string> obstacles = {no_nccl};
  try {
    f.launched = launched_by_mpi();
    if (f.launched) {
      const std::unique_ptr<Communicator> world = make_world_communicator();
      Watchdog::instance().start(*world, config.parallel.deadline_s);
      f.ranks = gather_ranks(*world, rank);
      obstacles = gather_texts(*world, no_nccl);
    }
  } catch (const Error& e) {
    f.advice.push_back(e.what());
  }
  place_on_devices(f, config.run.device);
  place_transport(f, config.run.transport, std::move(obstacles));
  const int ranks = int(f.ranks.size());
  f.layout = configured ? check_layout(ranks, config.parallel, layout_limits(config.model))
                        : check_layout(ranks, {});
  std::vector<std::string> hosts;
  for (const auto& r : f.ranks) hosts.push_back(r.host);
  for (const std::string& warning : placement_warnings(f.layout, hosts)) f.advice.push_back(warning);
}

void advise_on_ranks(Findings& f) {
  std::map<std::string, int> per_host;
  for (const auto& rank : f.ranks) per_host[rank.host]++;
  const int here = per_host[f.machine.host], cores = f.machine.online_cores;
  const bool bound =
      std::any_of(f.ranks.begin(), f.ranks.end(), [](const auto& r) { return r.core_count == 1; });
  if (f.launched && bound && cores / here > 1)
    f.advice.push_back(cat("ranks are bound to one core each although ", cores, " cores serve ", here,
                           " ranks: launch with mpirun --bind-to none"));
  if (here > cores)
    f.advice.push_back(
        cat(here, " ranks share ", cores,
            " cores: add --oversubscribe --mca mpi_yield_when_idle 1, and expect it to be slow"));
  if (f.launched && f.machine.shared_memory < int64_t(64) << 20)
    f.advice.push_back(
        "less than 64 MiB in /dev/shm: Open MPI's ranks on one host talk through it; enlarge it");
}

void advise_on_machine(Findings& f) {
  const Machine& m = f.machine;
  const int64_t memory =
      m.memory_limit == kUnlimited ? m.memory_available : std::min(m.memory_limit, m.memory_available);
  const auto cores = int(m.allowed.size());
  if (f.instruction_set != "none" && f.instruction_set.find("avx512") == std::string::npos &&
      f.instruction_set.find("amx") == std::string::npos)
    f.advice.push_back(
        "this CPU has no AVX-512: everything works, at about half the speed, and bf16 brings no gain");
  if (std::getenv("JAMBALAYA_ISA"))
    f.advice.push_back("JAMBALAYA_ISA chooses the instruction set; unset it for the best one");
  if (m.quota_cores > 0 && m.quota_cores + 0.01 < cores)
    f.advice.push_back(cat("the control group grants ", m.quota_cores, " of ", cores,
                           " cores: set run.threads = ", std::max(1, int(std::floor(m.quota_cores)))));
  if (std::getenv("OMP_NUM_THREADS"))
    f.advice.push_back("OMP_NUM_THREADS is not read: threads are set with run.threads or --threads");
  if (memory < int64_t(2) << 30)
    f.advice.push_back(cat("only ", memory_text(memory),
                           " of memory are free: configs/readme.yaml needs about 0.4 GiB a rank"));
  if (m.disk_free < int64_t(2) << 30)
    f.advice.push_back(cat("only ", memory_text(m.disk_free),
                           " free on this disk: a checkpoint takes 12 bytes a parameter, and two are kept"));
  if (m.open_files != kUnlimited && m.open_files < 256)
    f.advice.push_back(cat("at most ", m.open_files, " open files: raise it with ulimit -n 1024"));
  // Arenas reserve address space and use only what they touch.
  if (m.address_space != kUnlimited)
    f.advice.push_back(
        "the address space is limited (ulimit -v): arenas reserve more than they use; lift it");
}

Findings examine(const DoctorOptions& options) {
  Findings f;
  f.environment = known_environment();  // CUDA is going to add to it
  f.machine = look_at_machine();
  f.mpi = mpi_library_version();
  f.hdf5 = hdf5_version();
  try {
    f.instruction_set = cpu_ops().name();
  } catch (const Error& e) {
    f.instruction_set = "none";
    f.advice.push_back(e.what());
  }
  if (launched_rank() == 0) look_at_gpus(f);  // which tells
  place_ranks(f, options);
  advise_on_ranks(f);
  advise_on_machine(f);
  return f;
}

}  // namespace

int run_doctor(const DoctorOptions& options) {
  const Findings findings = examine(options);
  if (launched_rank() != 0) return 0;
  const std::string text = options.json ? as_json(findings).text() + "\n" : as_text(findings);
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

}  // namespace jambalaya
