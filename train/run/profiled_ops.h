// A backend that hands every op on to another one and records it as an event of the trace, with what kind of
// work it is and its floating-point operations. On a device, where ops are only enqueued, each is waited for,
// so that its event is the time that it took and not the time to ask for it.
#pragma once
#include "kernels/ops.h"

namespace jambalaya {

class ProfiledOps final : public Ops {
 public:
  explicit ProfiledOps(Ops& ops) : ops_(ops) {}

  const char* name() const override { return ops_.name(); }
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
  void cache_append(Context&, const CacheAppend&) override;
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
  Ops& ops_;
  bool inside_ = false;  ///< an op that is called by another one belongs to that one
};

}  // namespace jambalaya
