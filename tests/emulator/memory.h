// The emulated device's memory: address space of its own, which can be touched only while a task runs. Host
// code that reads or writes it dies with a segmentation fault, as it would on a machine with a GPU; what was
// never written reads as 0xFF bytes (NaN).
#pragma once
#include <cstddef>

namespace emulator {

enum class MemoryKind { pageable, pinned, device };
/// What kind of memory this address lies in; pageable when nothing is known of it.
MemoryKind kind_of(const void* address);

/// Address space without memory behind it; null when there is none.
void* reserve_device(size_t bytes);
/// Puts memory behind the first `bytes` of a reserved range, those that have none yet filled with 0xFF. False
/// when the device has less left (JAMBALAYA_EMULATED_MEMORY bytes in all, 16 GiB without it).
bool commit_device(void* base, size_t bytes);
void release_device(void* base);
size_t device_bytes_free();
size_t device_bytes();

/// Host memory known as page-locked, filled with 0xFF.
void* allocate_pinned(size_t bytes);
bool free_pinned(void* memory);

/// While one of these lives, on any thread, device memory can be touched.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

}  // namespace emulator
