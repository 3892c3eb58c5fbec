// How `jambalaya doctor` tells what it found: as lines or as JSON.
#include "kernels/byte_text.h"
#include "parallel/mesh.h"
#include "train/commands/doctor_findings.h"
#include "train/commands/help_text.h"
#include "train/run/device.h"

namespace jambalaya {

namespace {

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

std::string gpu_text(const Findings::Gpu& gpu) {
  if (!gpu.problem.empty()) return cat("cannot be used: ", gpu.problem);
  return cat(describe(gpu.properties), ", ", memory_text(gpu.free_bytes), " free, ", gpu.properties.bus_id);
}

Json gpus_as_json(const Findings& f) {
  Json gpus = Json::make_array();
  for (const Findings::Gpu& gpu : f.gpus) {
    const AcceleratorProperties& p = gpu.properties;
    Json entry = Json::make_object();
    if (!gpu.problem.empty()) {
      gpus.array.push_back(std::move(entry.set("problem", gpu.problem)));
      continue;
    }
    entry.set("name", p.name).set("compute_capability", cat(p.major, ".", p.minor));
    entry.set("multiprocessors", p.multiprocessors).set("memory_total", p.memory_bytes);
    entry.set("memory_free", gpu.free_bytes)
        .set("memory_bytes_per_s", json_number(p.memory_bytes_per_second));
    entry.set("bus_id", p.bus_id).set("backend", gpu.ops);
    gpus.array.push_back(std::move(entry));
  }
  return gpus;
}

}  // namespace

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
  root.set("cuda_library", f.cuda_library.empty() ? Json() : Json(f.cuda_library));
  root.set("nccl", f.nccl.empty() ? Json() : Json(f.nccl));
  root.set("launched_by_mpi", f.launched);
  root.set("layout", layout_as_json(f.layout));
  root.set("transport", f.transport.empty() ? Json() : Json(f.transport));
  root.set("ranks", ranks_as_json(f));
  Json environment = Json::make_object();
  for (const auto& [name, value] : f.environment) environment.set(name, value);
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
  line("memory",
       cat(memory_text(m.memory_available), " available of ", memory_text(m.memory_total),
           m.memory_limit == kUnlimited ? "" : cat(", control group limit ", memory_text(m.memory_limit))));
  line("disk", cat(memory_text(m.disk_free), " free here, ", memory_text(m.shared_memory), " in /dev/shm"));
  line("limits",
       cat("open files ", m.open_files == kUnlimited ? "unlimited" : cat(m.open_files), ", locked memory ",
           memory_text(m.locked_memory), ", address space ", memory_text(m.address_space)));
  for (size_t i = 0; i < f.gpus.size(); i++) line(cat("gpu ", i), gpu_text(f.gpus[i]));
  if (f.gpus.empty()) line("gpu", cat("none: ", f.no_gpu));
  if (!f.cuda_library.empty()) line("library", f.cuda_library);
  for (const Findings::Gpu& gpu : f.gpus) {
    if (!gpu.problem.empty()) continue;
    line("backend", gpu.ops);
    break;  // the others' is the same
  }
  line("nccl", f.nccl.empty() ? cat("none: ", f.no_nccl) : f.nccl);
  line("hdf5", f.hdf5);
  line("mpi", f.mpi.empty() ? "this build has none"
                            : cat(f.mpi, f.launched ? "" : " (not launched by it: one rank)"));
  line("layout", describe(f.layout));
  if (!f.transport.empty()) line("transport", f.transport);
  for (size_t i = 0; i < f.ranks.size(); i++)
    line(cat("rank ", i), cat("host ", f.ranks[i].host, ", cores ", f.ranks[i].cores, ", ", f.ranks[i].device,
                              ", ", f.ranks[i].threads, f.ranks[i].threads == 1 ? " thread; " : " threads; ",
                              place_text(f.layout, int(i))));
  for (const auto& [name, value] : f.environment) line("environment", cat(name, "=", value));
  for (const auto& advice : f.advice) line("advice", advice);
  if (f.advice.empty()) line("advice", "nothing to change");
  return text;
}

}  // namespace jambalaya
