// Matrix products of the emulated device: the CPU backend's, run when the stream comes to them. They take the
// place of kernels/cuda/products_cublas.cpp, whose library needs a GPU.
#include <mutex>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/products.h"

namespace jambalaya::cuda {
namespace {

/// Threads and scratch memory of a CPU backend that serves all streams; two threads may run streams at once.
struct CpuProducts {
  std::mutex mutex;
  ThreadPool pool{1};
  Arena scratch{"products of the emulated device", int64_t(1) << 33};

  void gemm(const Gemm& op) {
    std::lock_guard lock(mutex);
    Context context{.ops = &cpu_ops(), .pool = &pool, .scratch = &scratch};
    context.ops->gemm(context, op);
  }
};

class EmulatedProducts final : public Products {
 public:
  void gemm(Context& ctx, const Gemm& op) override {
    emulator::enqueue(stream_of(ctx), [cpu = cpu_, op] { cpu->gemm(op); });
  }
  bool experts(Context& ctx, const GroupedGemm& op) override {
    for (int64_t x = 0; x < op.w.rows(); x++)
      gemm(ctx, expert_product(op, x, op.host_offsets[x], op.host_offsets[x + 1]));
    return true;
  }
  const char* name() const override { return "CPU products"; }

 private:
  std::shared_ptr<CpuProducts> cpu_ = std::make_shared<CpuProducts>();
};

}  // namespace

std::unique_ptr<Products> make_products(const AcceleratorProperties&) {
  return std::make_unique<EmulatedProducts>();
}

}  // namespace jambalaya::cuda
