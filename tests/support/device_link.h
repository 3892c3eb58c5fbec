// The device under test as a rank's groups and its communication queue are given it.
#pragma once
#include <cstdlib>
#include <string>

#include "parallel/device_link.h"
#include "tests/support/device.h"

namespace jambalaya::test {

/// Empty on the CPU. JAMBALAYA_TEST_TRANSPORT=staged (default: ranks of a test share the device) or nccl.
inline const DeviceLink& device_link() {
  static const DeviceLink link = [] {
    if (!on_device()) return DeviceLink{};
    const char* transport = std::getenv("JAMBALAYA_TEST_TRANSPORT");
    return DeviceLink{
        .accelerator = &accelerator(),
        .compute = accelerator().compute_stream(),
        .communication = accelerator().new_stream(),
        .transport = transport && std::string(transport) == "nccl" ? Transport::nccl : Transport::staged};
  }();
  return link;
}
inline bool uses_nccl() { return device_link() && device_link().transport == Transport::nccl; }

}  // namespace jambalaya::test
