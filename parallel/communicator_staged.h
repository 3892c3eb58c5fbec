// Collectives of tensors in device memory by way of host memory and MPI.
#pragma once
#include <memory>

#include "parallel/collective_backend.h"
#include "parallel/device_link.h"

namespace jambalaya {

/// For tests and for several ranks on one GPU: every call waits for the stream, and takes page-locked host
/// memory of the size of its largest collective. Results are the host backend's, bit for bit. All arguments
/// must outlive it.
std::unique_ptr<DeviceBackend> make_staged_backend(HostBackend& host, Accelerator& accelerator,
                                                   Accelerator::Stream stream);

}  // namespace jambalaya
