// The CPU backend's class. Its methods are defined in the rooms beside this file: gemm.cpp, vocab.cpp,
// norm.cpp, conv.cpp, scan.cpp, scan_carry.cpp, rope.cpp, attention.cpp, attention_backward.cpp,
// cache_append.cpp, moe.cpp, balance.cpp, pointwise.cpp, optimizer.cpp. Each checks shapes (op_checks.h),
// cuts the work into chunks by shape, and calls the vector kernels of this machine's instruction set
// (simd/kernels.h).
#pragma once
#include "kernels/cpu/simd/kernels.h"
#include "kernels/ops.h"

namespace jambalaya {

class CpuOps final : public Ops {
 public:
  explicit CpuOps(const VectorKernels& kernels) : simd_(kernels) {}
  const char* name() const override { return simd_.name; }

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
  const VectorKernels& simd_;
};

}  // namespace jambalaya
