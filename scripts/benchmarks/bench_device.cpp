#include "scripts/benchmarks/bench_device.h"

#include <algorithm>
#include <chrono>

#include "kernels/cuda_library.h"
#include "kernels/philox.h"

namespace jambalaya::bench {

namespace {
double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
}  // namespace

BenchDevice::BenchDevice(const std::string& device, int threads)
    : pool_(std::make_unique<ThreadPool>(device == "cpu" ? threads : 1)) {
  if (device == "cuda") accelerator_ = open_cuda(0);
  const int64_t all = accelerator_ ? accelerator_->properties().memory_bytes : int64_t(1) << 40;
  memory_ = std::make_unique<Arena>("tensors", all, accelerator_.get());
  scratch_ = std::make_unique<Arena>("scratch", all, accelerator_.get());
  context_.pool = pool_.get();
  context_.scratch = scratch_.get();
  context_.ops = accelerator_ ? &accelerator_->ops() : &cpu_ops();
  if (!accelerator_) return;
  context_.device = Device::cuda;
  context_.accelerator = accelerator_.get();
  context_.stream = accelerator_->compute_stream();
}

std::string BenchDevice::name() const { return accelerator_ ? accelerator_->properties().name : "cpu"; }

Tensor BenchDevice::zeros(DType dtype, std::initializer_list<int64_t> shape) {
  const Tensor t = memory_->tensor(dtype, shape, "tensor");
  clear(context_, t);
  return t;
}

Tensor BenchDevice::uniform(DType dtype, std::initializer_list<int64_t> shape, double low, double high) {
  const Tensor t = memory_->tensor(dtype, shape, "tensor");
  const int64_t n = t.numel(), block = std::min<int64_t>(n, 1 << 20);
  std::vector<float> values(static_cast<size_t>(block));
  const uint64_t key = hash_name(7, "benchmark");
  for (int64_t i = 0; i < block; i++)
    values[size_t(i)] = float(low + (high - low) * double(uniform_at(key, uint64_t(i))));
  ArenaScope scope(*scratch_);
  const Tensor there = to_device(context_, values, *scratch_, "values");
  const Tensor flat = make_tensor(t.data, dtype, {n}, t.device);
  for (int64_t at = 0; at < n; at += block) {
    const int64_t part = std::min(block, n - at);
    context_.ops->scale_copy(context_, {.x = there.slice_rows(0, part), .y = flat.slice_rows(at, at + part)});
  }
  synchronize(context_);
  return t;
}

Tensor BenchDevice::copy_of(const std::vector<int32_t>& values) {
  const Tensor t = memory_->tensor(DType::i32, {int64_t(values.size())}, "tensor");
  copy(context_, make_tensor(values.data(), {int64_t(values.size())}), t);
  synchronize(context_);
  return t;
}

Documents BenchDevice::upload(const Documents& docs) {
  Documents there = docs;
  if (context_.device == Device::cpu) return there;
  auto put = [this](const int32_t* values, int64_t count) -> const int32_t* {
    return copy_of(std::vector<int32_t>(values, values + count)).ptr<int32_t>();
  };
  there.device_offsets = put(docs.offsets, docs.count + 1);
  there.device_first_position = put(docs.first_position, docs.count);
  there.device_segment_of = put(docs.segment_of, docs.tokens);
  return there;
}

double BenchDevice::seconds_of(const std::function<void()>& work, double seconds) {
  auto timed = [&](int times) {
    synchronize(context_);
    const double start = now();
    for (int i = 0; i < times; i++) work();
    synchronize(context_);
    return (now() - start) / times;
  };
  timed(1);  // plans, first touch
  const double begin = now();
  const double one = timed(1);
  const int times = int(std::clamp(seconds / std::max(one, 1e-7), 1.0, 1000.0));
  double best = one;
  for (int round = 0; round < 3 && now() - begin < 2; round++) best = std::min(best, timed(times));
  return best;
}

double BenchDevice::copy_bytes_per_second(int64_t megabytes) {
  ArenaScope scope(*memory_);
  const int64_t n = megabytes << 18;
  const Tensor x = zeros(DType::f32, {n}), y = zeros(DType::f32, {n});
  return double(2 * x.bytes()) / seconds_of([&] { copy(context_, x, y); });
}

double BenchDevice::product_flops(DType dtype, int64_t n) {
  ArenaScope scope(*memory_);
  const Tensor a = uniform(dtype, {n, n}), b = uniform(dtype, {n, n}), c = zeros(dtype, {n, n});
  return 2.0 * double(n) * double(n) * double(n) /
         seconds_of([&] { context_.ops->gemm(context_, {.a = a, .b = b, .c = c, .transpose_b = true}); },
                    0.2);
}

}  // namespace jambalaya::bench
