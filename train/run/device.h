// Which device a process computes on: the GPU of its place among the ranks of its host, or the CPU.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "kernels/accelerator.h"
#include "parallel/communicator.h"

namespace jambalaya {

struct ComputeDevice {
  std::unique_ptr<Accelerator> accelerator;  ///< null: the CPU
  /// For people: "cpu (not cuda: no CUDA library here ...)", "cuda: NVIDIA H200 (...)".
  std::string text = "cpu";
  std::string warning;  ///< why a GPU that is there is not used; "" where there is nothing to say
  /// By rank, equal for ranks that share it: the memory that its tensors lie in. "host a", "GPU 0000:1b:00.0
  /// (NVIDIA H200) of host a".
  std::vector<std::string> memories;
};

/// `wish` is a value of run.device. The n-th rank of a host takes its n-th GPU (of those that the rank sees),
/// beginning again at the first when there are more ranks. All ranks compute on the same kind: with auto on
/// the CPU as soon as one of them has no GPU, or one that this build has no kernels for. Collective. Throws
/// Error(usage) on all ranks when cuda was asked for and that is so, or when a GPU that should work fails.
ComputeDevice choose_device(Communicator& world, const std::string& wish);

/// "NVIDIA H200 (compute capability 9.0, 132 multiprocessors, 139.8 GiB, 4.8 TB/s)".
std::string describe(const AcceleratorProperties& properties);

}  // namespace jambalaya
