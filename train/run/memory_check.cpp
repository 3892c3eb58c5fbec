#include "train/run/memory_check.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <string>

#include "model/parts.h"
#include "model/unit_ring.h"
#include "parallel/nccl_memory.h"

namespace jambalaya {

namespace {

/// MemAvailable of /proc/meminfo in bytes; -1 where it cannot be read.
int64_t available_bytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string key; file >> key;) {
    int64_t kilobytes = 0;
    if (key == "MemAvailable:" && file >> kilobytes) return kilobytes * 1024;
    file.ignore(256, '\n');
  }
  return -1;
}

/// NCCL makes its buffers with its communicators, or when they are first used (2.22 and newer): what it has
/// taken already is no longer free, and is not counted again.
int64_t nccl_to_come(Runtime& runtime) {
  const Mesh& mesh = runtime.mesh();
  if (mesh.link().transport != Transport::nccl) return 0;
  return std::max<int64_t>(0, nccl_buffer_bytes(mesh.device_groups()) - runtime.taken_by_groups());
}

}  // namespace

TensorMemory tensor_memory(const ModelConfig& model, Precision precision, bool training,
                           const PlacementRanks& ranks) {
  const PartPlan plan = plan_parts(parameter_table(model), ranks, precision == Precision::bf16);
  const Residents also = residents(plan, ranks, training);
  TensorMemory bytes;
  bytes.masters = plan.owned_size * 4;
  bytes.values = also.values * 4 + also.compute * 2;
  if (training) {
    bytes.moments = plan.owned_size * 8;
    bytes.gradients = plan.owned_size * 4;
    bytes.unsummed = also.gradients * 4;
  }
  if (ranks.full) {
    const UnitRing::SlotBytes slot = UnitRing::slot_bytes(plan.parts);
    bytes.values += UnitRing::kValueSlots * slot.values;
    if (training) bytes.unsummed += UnitRing::kGradientSlots * slot.gradients;
  }
  return bytes;
}

int64_t largest_tensor_memory(const ModelConfig& model, Precision precision, const Layout& layout) {
  int64_t most = 0;
  for (int rank = 0; rank < token_ranks(layout) * layout.tensor; rank++)
    most = std::max(most, tensor_memory(model, precision, true, placement_of(layout, rank)).total());
  return most;
}

std::string memory_shortage(const std::vector<MemoryNeed>& ranks) {
  struct Memory {
    int ranks = 0;
    int64_t need = 0, available = -1, nccl = 0;
    int64_t missing() const { return available < 0 ? 0 : need - available; }
  };
  std::map<std::string, Memory> memories;
  for (const MemoryNeed& rank : ranks) {
    Memory& memory = memories[rank.memory];
    memory.ranks++;
    memory.need += rank.need;
    memory.nccl += rank.nccl;
    if (rank.available >= 0 && (memory.available < 0 || rank.available < memory.available))
      memory.available = rank.available;
  }
  const auto worst = std::max_element(memories.begin(), memories.end(), [](const auto& a, const auto& b) {
    return a.second.missing() < b.second.missing();
  });
  if (worst == memories.end() || worst->second.missing() <= 0) return "";
  const auto& [name, memory] = *worst;
  return cat(memory.ranks, memory.ranks == 1 ? " rank" : " ranks", " on ", name, " would need ",
             memory.need >> 20, " MiB",
             memory.nccl ? cat(" (", memory.nccl >> 20, " MiB of it an estimate of NCCL's own buffers)") : "",
             ", ", memory.available >> 20, " MiB are available there");
}

void check_memory(const ModelConfig& model, Precision precision, bool training, Runtime& runtime) {
  Mesh& mesh = runtime.mesh();
  Accelerator* const accelerator = runtime.context().accelerator;
  // Hosts and cards differ: every rank sees all figures and comes to the same end.
  const int64_t nccl = nccl_to_come(runtime);
  int64_t mine[3] = {tensor_memory(model, precision, training, placement_of(mesh)).total() + nccl,
                     accelerator ? accelerator->free_bytes() : available_bytes(), nccl};
  std::vector<int64_t> all(3 * size_t(mesh.size()));
  mesh.world().all_gather(make_tensor(mine, {3}), make_tensor(all.data(), {int64_t(all.size())}));
  std::vector<MemoryNeed> ranks;
  for (int r = 0; r < mesh.size(); r++)
    ranks.push_back(
        {runtime.memory_of(r), all[3 * size_t(r)], all[3 * size_t(r) + 1], all[3 * size_t(r) + 2]});
  const std::string shortage = memory_shortage(ranks);
  if (shortage.empty()) return;
  throw Error(Exit::usage, cat("the model has ", count_parameters(model).total, " parameters: for ",
                               training ? "weights, gradients and moments" : "its weights", " ", shortage,
                               "; take a smaller model, other hosts, or a layout that shares it among more "
                               "ranks (docs/sharding.md)"));
}

}  // namespace jambalaya
