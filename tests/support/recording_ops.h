// A backend that hands every op on to another one and writes down what it was asked for: work as a fact, not
// a time.
#pragma once
#include <string>
#include <utility>

#include "kernels/ops.h"

namespace jambalaya::test {

/// `record` holds one line per op: its name and the shape that says how much it had to do.
class RecordingOps : public Ops {
 public:
  explicit RecordingOps(Ops& ops) : ops_(ops) {}
  std::string take_record() { return std::exchange(record_, {}); }

  const char* name() const override { return ops_.name(); }
  void gemm(Context& c, const Gemm& a) override { note("gemm", a.a, a.c), ops_.gemm(c, a); }
  void grouped_gemm(Context& c, const GroupedGemm& a) override {
    note("grouped_gemm", a.a, a.y), ops_.grouped_gemm(c, a);
  }
  void embedding_forward(Context& c, const EmbeddingForward& a) override {
    note("embedding", a.y), ops_.embedding_forward(c, a);
  }
  void embedding_backward(Context& c, const EmbeddingBackward& a) override {
    note("embedding'", a.dy), ops_.embedding_backward(c, a);
  }
  void head_loss(Context& c, const HeadLoss& a) override { note("head_loss", a.h), ops_.head_loss(c, a); }
  void rms_norm_forward(Context& c, const RmsNormForward& a) override {
    note("rms_norm", a.y), ops_.rms_norm_forward(c, a);
  }
  void rms_norm_backward(Context& c, const RmsNormBackward& a) override {
    note("rms_norm'", a.dy), ops_.rms_norm_backward(c, a);
  }
  void ssm_norms_forward(Context& c, const SsmNormsForward& a) override {
    note("ssm_norms", a.p), ops_.ssm_norms_forward(c, a);
  }
  void ssm_norms_backward(Context& c, const SsmNormsBackward& a) override {
    note("ssm_norms'", a.dp), ops_.ssm_norms_backward(c, a);
  }
  void conv_forward(Context& c, const ConvForward& a) override {
    note("conv", a.x, a.tail), ops_.conv_forward(c, a);
  }
  void conv_backward(Context& c, const ConvBackward& a) override {
    note("conv'", a.x), ops_.conv_backward(c, a);
  }
  void scan_forward(Context& c, const ScanForward& a) override {
    note("scan", a.u, a.h_last), ops_.scan_forward(c, a);
  }
  void scan_backward(Context& c, const ScanBackward& a) override {
    note("scan'", a.u), ops_.scan_backward(c, a);
  }
  void scan_carry_forward(Context& c, const ScanCarryForward& a) override {
    note("scan_carry", a.u), ops_.scan_carry_forward(c, a);
  }
  void scan_carry_backward(Context& c, const ScanCarryBackward& a) override {
    note("scan_carry'", a.s), ops_.scan_carry_backward(c, a);
  }
  void rope(Context& c, const Rope& a) override { note("rope", a.x), ops_.rope(c, a); }
  void attention_forward(Context& c, const AttentionForward& a) override {
    note("attention", a.q), ops_.attention_forward(c, a);
  }
  void attention_merge(Context& c, const AttentionMerge& a) override {
    note("attention merge", a.o), ops_.attention_merge(c, a);
  }
  void attention_delta(Context& c, const AttentionDelta& a) override {
    note("attention delta", a.o), ops_.attention_delta(c, a);
  }
  void attention_backward(Context& c, const AttentionBackward& a) override {
    note("attention'", a.q), ops_.attention_backward(c, a);
  }
  void swiglu_forward(Context& c, const SwigluForward& a) override {
    note("swiglu", a.h), ops_.swiglu_forward(c, a);
  }
  void swiglu_backward(Context& c, const SwigluBackward& a) override {
    note("swiglu'", a.dh), ops_.swiglu_backward(c, a);
  }
  void router_forward(Context& c, const RouterForward& a) override {
    note("router", a.logits), ops_.router_forward(c, a);
  }
  void router_backward(Context& c, const RouterBackward& a) override {
    note("router'", a.dlogits), ops_.router_backward(c, a);
  }
  void balance_loss(Context& c, const BalanceLoss& a) override {
    note("balance", a.stats), ops_.balance_loss(c, a);
  }
  void sort_by_expert(Context& c, const SortByExpert& a) override {
    note("sort", a.expert), ops_.sort_by_expert(c, a);
  }
  void gather_rows(Context& c, const GatherRows& a) override { note("gather", a.y), ops_.gather_rows(c, a); }
  void gather_rows_backward(Context& c, const GatherRowsBackward& a) override {
    note("gather'", a.dx), ops_.gather_rows_backward(c, a);
  }
  void combine_forward(Context& c, const CombineForward& a) override {
    note("combine", a.y), ops_.combine_forward(c, a);
  }
  void combine_backward(Context& c, const CombineBackward& a) override {
    note("combine'", a.dx), ops_.combine_backward(c, a);
  }
  void scale_copy(Context& c, const ScaleCopy& a) override { note("scale_copy", a.x), ops_.scale_copy(c, a); }
  void multiply_add(Context& c, const MultiplyAdd& a) override {
    note("multiply_add", a.y), ops_.multiply_add(c, a);
  }
  void add_bias(Context& c, const AddBias& a) override { note("add_bias", a.x), ops_.add_bias(c, a); }
  void bias_backward(Context& c, const BiasBackward& a) override {
    note("add_bias'", a.dy), ops_.bias_backward(c, a);
  }
  void sum_squares(Context& c, const SumSquares& a) override {
    note("sum_squares", a.x), ops_.sum_squares(c, a);
  }
  void adamw(Context& c, const AdamW& a) override { note("adamw", a.param), ops_.adamw(c, a); }

 private:
  void note(const char* op, const Tensor& x, const Tensor& y = {}) {
    record_ += cat(op, " ", x.describe(), y ? " " + y.describe() : "", "\n");
  }
  Ops& ops_;
  std::string record_;
};

}  // namespace jambalaya::test
