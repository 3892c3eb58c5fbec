#include "train/run/memory_check.h"

#include <fstream>
#include <string>

#include "model/parts.h"
#include "model/unit_ring.h"

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

}  // namespace

int64_t tensor_bytes(const ModelConfig& model, Precision precision, bool training,
                     const PlacementRanks& ranks) {
  const PartPlan plan = plan_parts(parameter_table(model), ranks, precision == Precision::bf16);
  const Residents also = residents(plan, ranks, training);
  // Owned: master, gradient and two moments in fp32.
  int64_t bytes =
      plan.owned_size * (training ? 16 : 4) + (also.values + also.gradients) * 4 + also.compute * 2;
  if (ranks.full) {
    const UnitRing::SlotBytes slot = UnitRing::slot_bytes(plan.parts);
    bytes += UnitRing::kValueSlots * slot.values + (training ? UnitRing::kGradientSlots * slot.gradients : 0);
  }
  return bytes;
}

void check_memory(const ModelConfig& model, Precision precision, bool training, int local_ranks,
                  const PlacementRanks& ranks) {
  const int64_t need = tensor_bytes(model, precision, training, ranks) * local_ranks,
                available = available_bytes();
  if (available < 0 || need <= available) return;
  throw Error(Exit::usage,
              cat("the model has ", count_parameters(model).total, " parameters: ", local_ranks,
                  local_ranks == 1 ? " rank" : " ranks", " on this host would need ", need >> 20, " MiB for ",
                  training ? "weights, gradients and moments" : "its weights", ", ", available >> 20,
                  " MiB are available; take a smaller model or a machine with more memory"));
}

}  // namespace jambalaya
