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
  /// `docs` with its arrays in the device's memory too, once, as a model's pass uploads them. On the CPU as
  /// it is.
  Documents upload(const Documents& docs);

  /// Best of several timings of enough repetitions to fill `seconds` each, after one that is not counted.
  /// Once two seconds are spent no further timing begins.
  double seconds_of(const std::function<void()>& work, double seconds = 0.03);
  /// Bytes a second of a copy of `megabytes` MiB within the device, read and written both counted.
  double copy_bytes_per_second(int64_t megabytes);
  /// FLOP/s of a product n x n x n, by the algorithm that the backend chooses.
  double product_flops(DType dtype, int64_t n);

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
