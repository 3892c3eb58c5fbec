// Refuses a model that cannot fit before anything is allocated: running out of memory takes the whole machine
// down.
#pragma once
#include <string>
#include <vector>

#include "model/placement.h"
#include "train/config.h"

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

/// What one rank needs, and what its host has left: bytes; `available` < 0: unknown.
struct MemoryNeed {
  std::string host;
  int64_t need = 0, available = -1;
};
/// The host whose ranks together lack the most memory, as a sentence; empty when all fit.
std::string memory_shortage(const std::vector<MemoryNeed>& ranks);

/// Collective: Error(usage) on every rank when the tensors of the ranks of some host need more than the
/// memory that is available there.
void check_memory(const ModelConfig& model, Precision precision, bool training, Mesh& mesh);

}  // namespace jambalaya
