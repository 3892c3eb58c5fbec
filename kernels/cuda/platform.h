// What a GPU and the emulated device of the tests do by different means: platform_gpu.cpp, and a file of this
// name in tests/emulator.
#pragma once
#include <cstdint>
#include <memory>

#include "kernels/accelerator.h"
#include "kernels/ops.h"

namespace jambalaya::cuda {

/// A range of the device's addresses, behind which memory is put from its beginning on. Used by one thread at
/// a time.
class DeviceRange {
 public:
  virtual ~DeviceRange() = default;  ///< nothing that uses the memory may still be under way
  virtual void* base() const = 0;
  /// At least the first `bytes` have memory behind them afterwards, what is there stays. Throws Error(io)
  /// when the device is full.
  virtual void commit(int64_t bytes) = 0;
};
/// Throws Error(io) when there are no such addresses left.
std::unique_ptr<DeviceRange> reserve_range(int device, int64_t bytes);

/// The backend of an accelerator with these properties.
std::unique_ptr<Ops> make_ops(const AcceleratorProperties& properties);

bool emulated();

/// Which devices there are kernels for, and whose attention was compiled in.
const char* library_contents();

/// The error of a full device, with what is free and what there is.
[[noreturn]] void throw_device_full(int64_t bytes);

}  // namespace jambalaya::cuda
