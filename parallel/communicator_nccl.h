// Collectives of tensors in device memory by NCCL, which is loaded at run time: a CPU installation does
// without.
#pragma once
#include <memory>
#include <string>

#include "parallel/collective_backend.h"
#include "parallel/device_link.h"

namespace jambalaya {

/// "2.28.9"; "" where NCCL cannot be used, with the reason in `why`: the library is libnccl.so.2, or what
/// JAMBALAYA_NCCL_LIBRARY names.
std::string nccl_version(std::string* why = nullptr);

/// One NCCL communicator (collective over `host`, which carries its id). Made before there is anything on the
/// device that waits for other ranks: making it may wait for the device. All arguments must outlive it.
/// Throws Error(layout) where NCCL cannot be used, and Error(peer_lost) from a call that NCCL gives up.
std::unique_ptr<DeviceBackend> make_nccl_backend(HostBackend& host, Accelerator& accelerator,
                                                 Accelerator::Stream stream, const std::string& name);

}  // namespace jambalaya
