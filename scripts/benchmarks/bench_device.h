// What the kernel and step benchmarks share: a device with its memory, tensors filled with made-up numbers,
// and the time of a piece of work.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "kernels/accelerator.h"
#include "kernels/ops.h"
#include "kernels/transfer.h"

namespace jambalaya::bench {

class BenchDevice {
 public:
  /// "cuda" (GPU number 0) or "cpu" with this many threads.
  BenchDevice(const std::string& device, int threads);

  Context& context() { return context_; }
  Ops& ops() { return *context_.ops; }
  /// Tensors live here until the scope that was opened on it ends.
  Arena& memory() { return *memory_; }
  /// Uniform in [low, high), from a fixed seed; a block of 2^20 elements repeats.
  Tensor uniform(DType dtype, std::initializer_list<int64_t> shape, double low = -1, double high = 1);
  Tensor zeros(DType dtype, std::initializer_list<int64_t> shape);
  Tensor copy_of(const std::vector<int32_t>& values);

  /// Best of several timings of enough repetitions to fill `seconds` each, after one that is not counted.
  double seconds_of(const std::function<void()>& work, double seconds = 0.03);
  /// Bytes a second of a copy of 1 GiB within the device, read and written both counted.
  double copy_bytes_per_second();
  /// FLOP/s of the best dense product at 8192 x 8192 x 8192 (1024 on a CPU).
  double product_flops(DType dtype);

  std::string name() const;
  const AcceleratorProperties* properties() const {
    return accelerator_ ? &accelerator_->properties() : nullptr;
  }

 private:
  std::unique_ptr<Accelerator> accelerator_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Arena> memory_, scratch_;
  Context context_;
};

}  // namespace jambalaya::bench
