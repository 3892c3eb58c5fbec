// Refuses a model that cannot fit before anything is allocated: running out of memory takes the whole machine
// down, and a GPU's ends the run in its first step.
#pragma once
#include <string>
#include <vector>

#include "model/placement.h"
#include "train/config.h"
#include "train/run/runtime.h"

namespace jambalaya {

/// Bytes of the tensors of one rank; activations come on top.
struct TensorMemory {
  int64_t masters = 0, moments = 0, gradients = 0;  ///< owned: fp32 weights, both moments, summed gradients
  int64_t values = 0;                               ///< what the model reads, where that is not the masters
  int64_t unsummed = 0;                             ///< gradients before their sum, where they lie apart
  int64_t total() const { return masters + moments + gradients + values + unsummed; }
};
/// Of the rank that stands there; training = false: the weights alone.
TensorMemory tensor_memory(const ModelConfig& model, Precision precision, bool training,
                           const PlacementRanks& ranks = {});
/// Bytes of training on the rank that has the most: sizes need not divide.
int64_t largest_tensor_memory(const ModelConfig& model, Precision precision, const Layout& layout);

/// What one rank needs, and what the memory of its device has left: bytes; `available` < 0: unknown.
struct MemoryNeed {
  std::string memory;  ///< "host a", "GPU 0000:1b:00.0 (NVIDIA H200) of host a"
  int64_t need = 0, available = -1;
  int64_t nccl = 0;  ///< of `need`: an estimate of what NCCL takes for itself (parallel/nccl_memory.h)
};
/// The memory whose ranks together lack the most, as a sentence; empty when all fit.
std::string memory_shortage(const std::vector<MemoryNeed>& ranks);

/// Collective: Error(usage) on every rank when the tensors of the ranks that share some memory (a host's, a
/// GPU's), and on a GPU NCCL's buffers as far as they are not made yet, need more than what is available
/// there.
void check_memory(const ModelConfig& model, Precision precision, bool training, Runtime& runtime);

}  // namespace jambalaya
