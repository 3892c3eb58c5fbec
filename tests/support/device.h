// Which device the tests of ops run on: the CPU, or with JAMBALAYA_TEST_DEVICE=cuda whatever the CUDA library
// opens (the emulator on a machine without a GPU: JAMBALAYA_CUDA_LIBRARY). Tests stay as they are: their
// memory is page-locked host memory, which the device can use, and every op is waited for.
#pragma once
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "kernels/cuda_library.h"
#include "tests/support/forwarding_ops.h"

namespace jambalaya::test {

inline bool on_device() {
  const char* device = std::getenv("JAMBALAYA_TEST_DEVICE");
  return device && std::string(device) == "cuda";
}
/// As run.device is told.
inline const char* device_name() { return on_device() ? "cuda" : "cpu"; }
/// The device under test, opened once. Never closed: memory of tests may live until the process ends.
inline Accelerator& accelerator() {
  static Accelerator* const opened = open_cuda(0).release();
  return *opened;
}

/// Memory that the device under test can read and write.
template <class T>
struct DeviceAllocator {
  using value_type = T;
  DeviceAllocator() = default;
  template <class U>
  DeviceAllocator(const DeviceAllocator<U>&) {}
  T* allocate(size_t n) {
    if (on_device()) return static_cast<T*>(accelerator().pinned(int64_t(n * sizeof(T))));
    return static_cast<T*>(::operator new(n * sizeof(T)));
  }
  void deallocate(T* p, size_t) {
    if (on_device())
      accelerator().free_pinned(p);
    else
      ::operator delete(p);
  }
  friend bool operator==(const DeviceAllocator&, const DeviceAllocator&) { return true; }
};
/// As std::vector, where an op reads or writes it.
template <class T>
using DeviceVector = std::vector<T, DeviceAllocator<T>>;

/// Waits after every op, so that the test can look at the results at once.
class WaitingOps final : public ForwardingOps<WaitingOps> {
 public:
  explicit WaitingOps(Ops& ops) : ops_(ops) {}
  const char* name() const override { return ops_.name(); }
  template <class Op>
  void forward(const char*, void (Ops::*run)(Context&, const Op&), Context& c, const Op& op,
               std::initializer_list<Tensor>) {
    (ops_.*run)(c, op);
    c.accelerator->synchronize(c.stream);
  }

 private:
  Ops& ops_;
};

/// Threads, scratch memory and the kernels of one instruction set, or of the device ("cuda").
class OpContext {
 public:
  OpContext(int threads, const std::string& isa, int64_t scratch_bytes)
      : pool_(threads), scratch_("test scratch", scratch_bytes, on_device() ? &accelerator() : nullptr) {
    context_.pool = &pool_;
    context_.scratch = &scratch_;
    if (on_device()) {
      static WaitingOps waiting(accelerator().ops());
      context_.ops = &waiting;
      context_.device = Device::cuda;
      context_.accelerator = &accelerator();
      context_.stream = accelerator().compute_stream();
    } else {
      context_.ops = &cpu_ops(isa.c_str());
    }
  }
  Context& context() { return context_; }
  /// Ops are no longer waited for: as in a run, where a missing wait must show.
  void run_ahead() {
    if (on_device()) context_.ops = &accelerator().ops();
  }

 private:
  ThreadPool pool_;
  Arena scratch_;
  Context context_;
};

/// Of `isas`, those of this machine; {"cuda"} where the tests run on a device.
inline std::vector<std::string> isas_among(std::initializer_list<const char*> isas) {
  if (on_device()) return {"cuda"};
  std::vector<std::string> found;
  for (const char* isa : isas) {
    try {
      cpu_ops(isa);
      found.push_back(isa);
    } catch (const Error&) {
    }
  }
  return found;
}

}  // namespace jambalaya::test
