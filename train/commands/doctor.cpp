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
#include "parallel/mesh.h"
#include "parallel/mpi_version.h"
#include "parallel/watchdog.h"
#include "train/commands/commands.h"
#include "train/commands/help_text.h"
#include "train/machine.h"
#include "train/config.h"
#include "train/json.h"
#include "train/run/log.h"
#include "train/run/runtime.h"

namespace jambalaya {

namespace {

struct Findings {
  Machine machine;
  std::string instruction_set;
  std::string mpi, hdf5;
  bool launched = false;
  struct Rank {
    std::string host, cores;
    int core_count = 0, threads = 0, gpus = 0;  ///< gpus that it sees
    std::string device;                         ///< "cpu", "gpu 3"
  };
  std::vector<Rank> ranks;
  struct Gpu {
    AcceleratorProperties properties;
    int64_t free_bytes = 0;
  };
  std::vector<Gpu> gpus;              ///< of this host
  std::string no_gpu, nccl, no_nccl;  ///< why there is none; version, or why it cannot be used
  Layout layout;                      ///< of these ranks, data filled in
  std::vector<std::string> advice;
};

Findings::Rank this_rank(const Machine& machine, int threads) {
  return {machine.host, core_ranges(machine.allowed), int(machine.allowed.size()),
          threads ? threads : default_threads(), cuda_devices()};
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

/// Where a rank stands in the layout, for people.
std::string place_text(const Layout& l, int rank) {
  const Coordinates at = coordinates(l, rank);
  std::string text = cat("data ", at.data);
  if (l.context > 1) text += cat(", context ", at.context);
  if (l.tensor > 1) text += cat(", tensor ", at.tensor);
  if (l.expert > 1) text += cat(", expert ", at.expert);
  if (l.expert_tensor > 1) text += cat(", expert_tensor ", at.expert_tensor);
  return text;
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
        "run.device = cuda, but not every rank has a GPU: training would end with exit code 2");
}

void look_at_gpus(Findings& f) {
  const int n = cuda_devices(&f.no_gpu);
  for (int i = 0; i < n; i++) {
    const std::unique_ptr<Accelerator> gpu = open_cuda(i);
    f.gpus.push_back({gpu->properties(), gpu->free_bytes()});
  }
  f.nccl = nccl_version(&f.no_nccl);
}

/// Who takes part, and where each stands; an impossible layout is an error of the config's.
void place_ranks(Findings& f, const DoctorOptions& options) {
  const bool configured = !options.config.empty() || !options.set.empty();
  const Config config = configured ? load_config(options.config, options.set) : Config{};
  const Findings::Rank rank = this_rank(f.machine, config.run.threads);
  f.ranks = {rank};
  try {
    f.launched = launched_by_mpi();
    if (f.launched) {
      const std::unique_ptr<Communicator> world = make_world_communicator();
      Watchdog::instance().start(*world, config.parallel.deadline_s);
      f.ranks = gather_ranks(*world, rank);
    }
  } catch (const Error& e) {
    f.advice.push_back(e.what());
  }
  place_on_devices(f, config.run.device);
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
  if (f.instruction_set.find("avx512") == std::string::npos &&
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
    f.advice.push_back(
        cat("only ", gib(memory), " of memory are free: the tiny config needs about 1 GiB a rank"));
  if (m.disk_free < int64_t(2) << 30)
    f.advice.push_back(cat("only ", gib(m.disk_free),
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

Json layout_as_json(const Layout& l) {
  Json json = Json::make_object();
  json.set("data", l.data).set("context", l.context).set("tensor", l.tensor);
  json.set("expert", l.expert).set("expert_tensor", l.expert_tensor);
  json.set("dense_shard", dense_shard_ranks(l)).set("expert_shard", expert_shard_ranks(l));
  return json;
}

Json ranks_as_json(const Findings& f) {
  Json ranks = Json::make_array();
  for (size_t i = 0; i < f.ranks.size(); i++) {
    const Findings::Rank& rank = f.ranks[i];
    const Coordinates at = coordinates(f.layout, int(i));
    Json entry = Json::make_object();
    entry.set("host", rank.host).set("cores", rank.cores).set("device", rank.device);
    entry.set("threads", rank.threads);
    entry.set("data", at.data).set("context", at.context).set("tensor", at.tensor);
    entry.set("expert_data", at.expert_data).set("expert", at.expert);
    entry.set("expert_tensor", at.expert_tensor);
    ranks.array.push_back(std::move(entry));
  }
  return ranks;
}

Json gpus_as_json(const Findings& f) {
  Json gpus = Json::make_array();
  for (const Findings::Gpu& gpu : f.gpus) {
    const AcceleratorProperties& p = gpu.properties;
    Json entry = Json::make_object();
    entry.set("name", p.name).set("compute_capability", cat(p.major, ".", p.minor));
    entry.set("multiprocessors", p.multiprocessors).set("memory_total", p.memory_bytes);
    entry.set("memory_free", gpu.free_bytes)
        .set("memory_bytes_per_s", json_number(p.memory_bytes_per_second));
    entry.set("bus_id", p.bus_id);
    gpus.array.push_back(std::move(entry));
  }
  return gpus;
}

Json as_json(const Findings& f) {
  const Machine& m = f.machine;
  Json root = Json::make_object();
  root.set("version", version_text());
  root.set("host", m.host);
  Json cpu = Json::make_object();
  cpu.set("model", m.cpu_model);
  Json features = Json::make_array();
  for (const auto& name : m.cpu_features) features.array.emplace_back(name);
  cpu.set("features", std::move(features));
  cpu.set("backend", f.instruction_set);
  cpu.set("online_cores", m.online_cores);
  cpu.set("allowed_cores", core_ranges(m.allowed));
  cpu.set("quota_cores", m.quota_cores);
  root.set("cpu", std::move(cpu));
  const std::pair<const char*, int64_t> bytes[] = {
      {"memory_total", m.memory_total},         {"memory_available", m.memory_available},
      {"memory_limit", m.memory_limit},         {"disk_free", m.disk_free},
      {"shared_memory_free", m.shared_memory},  {"limit_open_files", m.open_files},
      {"limit_locked_memory", m.locked_memory}, {"limit_address_space", m.address_space}};
  for (const auto& [key, value] : bytes) root.set(key, value == kUnlimited ? Json() : Json(value));
  root.set("mpi", f.mpi.empty() ? Json() : Json(f.mpi));
  root.set("hdf5", f.hdf5);
  root.set("gpus", gpus_as_json(f));
  if (f.gpus.empty()) root.set("no_gpu", f.no_gpu);
  root.set("nccl", f.nccl.empty() ? Json() : Json(f.nccl));
  root.set("launched_by_mpi", f.launched);
  root.set("layout", layout_as_json(f.layout));
  root.set("ranks", ranks_as_json(f));
  Json environment = Json::make_object();
  for (const auto& [name, value] : known_environment()) environment.set(name, value);
  root.set("environment", std::move(environment));
  Json advice = Json::make_array();
  for (const auto& line : f.advice) advice.array.emplace_back(line);
  root.set("advice", std::move(advice));
  return root;
}

std::string as_text(const Findings& f) {
  const Machine& m = f.machine;
  std::string features, text;
  for (const auto& name : m.cpu_features) features += cat(features.empty() ? "" : " ", name);
  const auto line = [&](const std::string& name, const std::string& value) {
    text += cat(name, std::string(name.size() < 12 ? 12 - name.size() : 1, ' '), value, "\n");
  };
  line("version", version_text());
  line("cpu", cat(m.cpu_model, ", ", m.online_cores, " cores, this process may use ", core_ranges(m.allowed),
                  m.quota_cores > 0 ? cat(" (control group: ", m.quota_cores, ")") : ""));
  line("features", features);
  line("backend", f.instruction_set);
  line("memory", cat(gib(m.memory_available), " available of ", gib(m.memory_total),
                     m.memory_limit == kUnlimited ? "" : cat(", control group limit ", gib(m.memory_limit))));
  line("disk", cat(gib(m.disk_free), " free here, ", gib(m.shared_memory), " in /dev/shm"));
  line("limits", cat("open files ", m.open_files == kUnlimited ? "unlimited" : cat(m.open_files),
                     ", locked memory ", gib(m.locked_memory), ", address space ", gib(m.address_space)));
  for (size_t i = 0; i < f.gpus.size(); i++)
    line(cat("gpu ", i), cat(describe(f.gpus[i].properties), ", ", gib(f.gpus[i].free_bytes), " free, ",
                             f.gpus[i].properties.bus_id));
  if (f.gpus.empty()) line("gpu", cat("none: ", f.no_gpu));
  line("nccl", f.nccl.empty() ? cat("none: ", f.no_nccl) : f.nccl);
  line("hdf5", f.hdf5);
  line("mpi", f.mpi.empty() ? "this build has none"
                            : cat(f.mpi, f.launched ? "" : " (not launched by it: one rank)"));
  line("layout", describe(f.layout));
  for (size_t i = 0; i < f.ranks.size(); i++)
    line(cat("rank ", i), cat("host ", f.ranks[i].host, ", cores ", f.ranks[i].cores, ", ", f.ranks[i].device,
                              ", ", f.ranks[i].threads, f.ranks[i].threads == 1 ? " thread; " : " threads; ",
                              place_text(f.layout, int(i))));
  for (const auto& [name, value] : known_environment()) line("environment", cat(name, "=", value));
  for (const auto& advice : f.advice) line("advice", advice);
  if (f.advice.empty()) line("advice", "nothing to change");
  return text;
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
