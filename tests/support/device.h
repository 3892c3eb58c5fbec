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
#include "kernels/ops.h"

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
class WaitingOps final : public Ops {
 public:
  explicit WaitingOps(Ops& ops) : ops_(ops) {}
  const char* name() const override { return ops_.name(); }
  void gemm(Context& c, const Gemm& a) override { ops_.gemm(c, a), wait(c); }
  void grouped_gemm(Context& c, const GroupedGemm& a) override { ops_.grouped_gemm(c, a), wait(c); }
  void embedding_forward(Context& c, const EmbeddingForward& a) override {
    ops_.embedding_forward(c, a), wait(c);
  }
  void embedding_backward(Context& c, const EmbeddingBackward& a) override {
    ops_.embedding_backward(c, a), wait(c);
  }
  void head_loss(Context& c, const HeadLoss& a) override { ops_.head_loss(c, a), wait(c); }
  void rms_norm_forward(Context& c, const RmsNormForward& a) override {
    ops_.rms_norm_forward(c, a), wait(c);
  }
  void rms_norm_backward(Context& c, const RmsNormBackward& a) override {
    ops_.rms_norm_backward(c, a), wait(c);
  }
  void ssm_norms_forward(Context& c, const SsmNormsForward& a) override {
    ops_.ssm_norms_forward(c, a), wait(c);
  }
  void ssm_norms_backward(Context& c, const SsmNormsBackward& a) override {
    ops_.ssm_norms_backward(c, a), wait(c);
  }
  void conv_forward(Context& c, const ConvForward& a) override { ops_.conv_forward(c, a), wait(c); }
  void conv_backward(Context& c, const ConvBackward& a) override { ops_.conv_backward(c, a), wait(c); }
  void scan_forward(Context& c, const ScanForward& a) override { ops_.scan_forward(c, a), wait(c); }
  void scan_backward(Context& c, const ScanBackward& a) override { ops_.scan_backward(c, a), wait(c); }
  void scan_carry_forward(Context& c, const ScanCarryForward& a) override {
    ops_.scan_carry_forward(c, a), wait(c);
  }
  void scan_carry_backward(Context& c, const ScanCarryBackward& a) override {
    ops_.scan_carry_backward(c, a), wait(c);
  }
  void rope(Context& c, const Rope& a) override { ops_.rope(c, a), wait(c); }
  void attention_forward(Context& c, const AttentionForward& a) override {
    ops_.attention_forward(c, a), wait(c);
  }
  void attention_merge(Context& c, const AttentionMerge& a) override { ops_.attention_merge(c, a), wait(c); }
  void attention_delta(Context& c, const AttentionDelta& a) override { ops_.attention_delta(c, a), wait(c); }
  void attention_backward(Context& c, const AttentionBackward& a) override {
    ops_.attention_backward(c, a), wait(c);
  }
  void swiglu_forward(Context& c, const SwigluForward& a) override { ops_.swiglu_forward(c, a), wait(c); }
  void swiglu_backward(Context& c, const SwigluBackward& a) override { ops_.swiglu_backward(c, a), wait(c); }
  void router_forward(Context& c, const RouterForward& a) override { ops_.router_forward(c, a), wait(c); }
  void router_backward(Context& c, const RouterBackward& a) override { ops_.router_backward(c, a), wait(c); }
  void balance_loss(Context& c, const BalanceLoss& a) override { ops_.balance_loss(c, a), wait(c); }
  void sort_by_expert(Context& c, const SortByExpert& a) override { ops_.sort_by_expert(c, a), wait(c); }
  void gather_rows(Context& c, const GatherRows& a) override { ops_.gather_rows(c, a), wait(c); }
  void gather_rows_backward(Context& c, const GatherRowsBackward& a) override {
    ops_.gather_rows_backward(c, a), wait(c);
  }
  void combine_forward(Context& c, const CombineForward& a) override { ops_.combine_forward(c, a), wait(c); }
  void combine_backward(Context& c, const CombineBackward& a) override {
    ops_.combine_backward(c, a), wait(c);
  }
  void scale_copy(Context& c, const ScaleCopy& a) override { ops_.scale_copy(c, a), wait(c); }
  void multiply_add(Context& c, const MultiplyAdd& a) override { ops_.multiply_add(c, a), wait(c); }
  void add_bias(Context& c, const AddBias& a) override { ops_.add_bias(c, a), wait(c); }
  void bias_backward(Context& c, const BiasBackward& a) override { ops_.bias_backward(c, a), wait(c); }
  void sum_squares(Context& c, const SumSquares& a) override { ops_.sum_squares(c, a), wait(c); }
  void adamw(Context& c, const AdamW& a) override { ops_.adamw(c, a), wait(c); }

 private:
  static void wait(Context& c) { c.accelerator->synchronize(c.stream); }
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
