// The CUDA backend's class. Its methods are defined in the .cu files beside this one, named as the CPU
// backend's rooms (kernels/cpu). Each checks shapes, picks the kernels for them and enqueues these on the
// context's stream; none waits for the device. Two threads may call it at once with contexts of their own
// (computation and communication).
#pragma once
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "kernels/ops.h"

namespace jambalaya::cuda {

class Products;          ///< matrix products by the vendor's library (products.h)
class AttentionLibrary;  ///< attention by the vendor's library (attention_library.h)

class CudaOps final : public Ops {
 public:
  CudaOps(const AcceleratorProperties& properties);
  ~CudaOps() override;
  /// "cuda (NVIDIA H200; products: cuBLASLt 13.1; attention: cuDNN 9.19.0)": as it stands, since a library
  /// may refuse later what it was expected to take. What was told before stays valid. From any thread.
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
  std::unique_ptr<Products> products_;
  std::unique_ptr<AttentionLibrary> attention_;
  std::string device_name_;
  mutable std::mutex mutex_;  ///< of the names that were told
  mutable std::set<std::string> names_;
};

}  // namespace jambalaya::cuda
