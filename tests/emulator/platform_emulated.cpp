// What kernels/cuda/platform_gpu.cpp does on a GPU, on the emulated device.
#include "kernels/cuda/platform.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/ops_cuda.h"
#include "tests/emulator/memory.h"
#include "tests/emulator/streamed_ops.h"

namespace jambalaya::cuda {
namespace {

/// As with a GPU's granularity, more has memory behind it than was asked for; little, so that ranks of a test
/// do not fill a small machine.
constexpr int64_t kPiece = 256 << 10;

class EmulatedRange final : public DeviceRange {
 public:
  explicit EmulatedRange(int64_t bytes)
      : reserved_((bytes + kPiece - 1) / kPiece * kPiece),
        base_(emulator::reserve_device(size_t(reserved_))) {
    if (!base_) throw Error(Exit::io, cat("cannot reserve ", bytes >> 20, " MiB of the device's addresses"));
  }
  ~EmulatedRange() override { emulator::release_device(base_); }
  EmulatedRange(const EmulatedRange&) = delete;
  EmulatedRange& operator=(const EmulatedRange&) = delete;

  void* base() const override { return base_; }
  void commit(int64_t bytes) override {
    if (bytes <= committed_) return;
    JAMBALAYA_CHECK(bytes <= reserved_, bytes, " of ", reserved_, " bytes");
    const int64_t whole = (bytes + kPiece - 1) / kPiece * kPiece;
    if (!emulator::commit_device(base_, size_t(whole))) throw_device_full(whole - committed_);
    committed_ = whole;
  }

 private:
  int64_t reserved_, committed_ = 0;
  void* base_;
};

}  // namespace

std::unique_ptr<DeviceRange> reserve_range(int, int64_t bytes) {
  return std::make_unique<EmulatedRange>(std::max<int64_t>(bytes, 1));
}

std::unique_ptr<Ops> make_ops(const AcceleratorProperties& properties) {
  const char* ops = std::getenv("JAMBALAYA_EMULATED_OPS");
  std::unique_ptr<Ops> kernels;
  if (!ops || std::strcmp(ops, "cpu") != 0) kernels = std::make_unique<CudaOps>(properties);
  return emulator::streamed_ops(std::move(kernels));
}

bool emulated() { return true; }

const char* library_contents() { return "kernels for the emulated device; attention by own kernels alone"; }

}  // namespace jambalaya::cuda
