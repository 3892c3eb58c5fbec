// How a rank's groups reach its GPU: on which streams, and by which way tensors in device memory travel.
#pragma once
#include <string>
#include <vector>

#include "kernels/accelerator.h"

namespace jambalaya {

class Communicator;

/// How tensors in device memory go from rank to rank.
enum class Transport : uint8_t {
  automatic,  ///< nccl where it can be used, else staged
  nccl,       ///< from device to device; one rank a GPU
  staged      ///< over host memory and MPI: tests, and several ranks on one GPU
};
const char* name_of(Transport transport);  ///< "auto", "nccl", "staged"

/// A rank's GPU. Empty (no accelerator): tensors are in host memory.
struct DeviceLink {
  Accelerator* accelerator = nullptr;
  Accelerator::Stream compute = nullptr;        ///< of the thread that computes
  Accelerator::Stream communication = nullptr;  ///< of the thread that communicates (CommunicationQueue)
  Transport transport = Transport::automatic;
  explicit operator bool() const { return accelerator != nullptr; }
};

/// What `automatic` means for these ranks, the same on all of them (collective over `world`): nccl when every
/// rank can load it and has a GPU of its own. Otherwise staged, with the reason in `note` ("" for one rank).
/// Throws Error(layout) on every rank when nccl was asked for and cannot be used.
Transport choose_transport(Communicator& world, const DeviceLink& link, std::string* note = nullptr);

/// Why these ranks cannot use NCCL: the first obstacle of one of them, or that two share a GPU; "" when they
/// can. All in rank order; `gpus` are names that are unique on a host.
std::string why_not_nccl(const std::vector<std::string>& hosts, const std::vector<std::string>& obstacles,
                         const std::vector<std::string>& gpus);

}  // namespace jambalaya
