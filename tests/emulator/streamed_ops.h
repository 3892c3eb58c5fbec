// The emulated device's ops. They refuse tensors that a GPU could not reach (host memory that is not
// page-locked), then run the CUDA backend's kernels on fibres; or, with JAMBALAYA_EMULATED_OPS=cpu, the CPU
// backend's ops in the stream's order: hundreds of times faster, for tests of the host code above the ops.
//
// CPU ops read control arrays (Documents, key_begin, key_count) when their task runs; like the CUDA ops they
// take those in host memory as they are at the call.
//
// A head cut over ranks (HeadLoss::combine) calls collectives in the middle. A communicator belongs to the
// thread that computes and all ranks must call in one order, so they cannot be called from a task, which
// runs when and where somebody waits: that op waits for its stream and runs at the call. It is the one CPU op
// here that waits.
#pragma once
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>

#include "kernels/ops.h"

namespace emulator {

using namespace jambalaya;

class StreamedOps final : public Ops {
 public:
  /// `kernels`: the CUDA backend; null: the CPU's ops in stream order.
  explicit StreamedOps(std::unique_ptr<Ops> kernels);
  ~StreamedOps() override;
  const char* name() const override;

  void gemm(Context&, const Gemm&) override;
  void grouped_gemm(Context&, const GroupedGemm&) override;
  void embedding_forward(Context&, const EmbeddingForward&) override;
  void embedding_backward(Context&, const EmbeddingBackward&) override;
  void head_loss(Context&, const HeadLoss&) override;
  void rms_norm_forward(Context&, const RmsNormForward&) override;
  void rms_norm_backward(Context&, const RmsNormBackward&) override;
  void ssm_norms_forward(Context&, const SsmNormsForward&) override;
  void ssm_norms_backward(Context&, const SsmNormsBackward&) override;
  void conv_forward(Context&, const ConvForward&) override;
  void conv_backward(Context&, const ConvBackward&) override;
  void scan_forward(Context&, const ScanForward&) override;
  void scan_backward(Context&, const ScanBackward&) override;
  void scan_carry_forward(Context&, const ScanCarryForward&) override;
  void scan_carry_backward(Context&, const ScanCarryBackward&) override;
  void rope(Context&, const Rope&) override;
  void attention_forward(Context&, const AttentionForward&) override;
  void attention_merge(Context&, const AttentionMerge&) override;
  void attention_delta(Context&, const AttentionDelta&) override;
  void attention_backward(Context&, const AttentionBackward&) override;
  void swiglu_forward(Context&, const SwigluForward&) override;
  void swiglu_backward(Context&, const SwigluBackward&) override;
  void router_forward(Context&, const RouterForward&) override;
  void router_backward(Context&, const RouterBackward&) override;
  void balance_loss(Context&, const BalanceLoss&) override;
  void sort_by_expert(Context&, const SortByExpert&) override;
  void gather_rows(Context&, const GatherRows&) override;
  void gather_rows_backward(Context&, const GatherRowsBackward&) override;
  void combine_forward(Context&, const CombineForward&) override;
  void combine_backward(Context&, const CombineBackward&) override;
  void scale_copy(Context&, const ScaleCopy&) override;
  void multiply_add(Context&, const MultiplyAdd&) override;
  void add_bias(Context&, const AddBias&) override;
  void bias_backward(Context&, const BiasBackward&) override;
  void sum_squares(Context&, const SumSquares&) override;
  void adamw(Context&, const AdamW&) override;

 private:
  struct Worker;  ///< what a stream's tasks need of a CPU context
  template <class Op>
  void start(void (Ops::*run)(Context&, const Op&), Context& ctx, const Op& op,
             std::initializer_list<Tensor> tensors);
  Worker& worker(void* stream);

  std::unique_ptr<Ops> kernels_;
  Ops* cpu_ = nullptr;
  std::mutex mutex_;
  std::map<void*, std::unique_ptr<Worker>> workers_;
};

}  // namespace emulator
