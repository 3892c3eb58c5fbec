// A base for backends that hand every op on to another one: the one list of ops that tests need. A new op
// gets a line here, and its name, its struct and its tensors reach every such backend.
#pragma once
#include <initializer_list>

#include "kernels/ops.h"

namespace jambalaya::test {

/// `Backend` (derived from this) has a member, seen by this base:
///   template <class Op> void forward(const char* name, void (Ops::*run)(Context&, const Op&), Context&,
///                                    const Op&, std::initializer_list<Tensor> tensors);
/// `tensors`: all of the op that a device reads and writes; optional ones may be empty. Control arrays, which
/// the host reads during the call (Documents, key_begin, key_count), are not among them.
template <class Backend>
class ForwardingOps : public Ops {
 public:
  void gemm(Context& c, const Gemm& a) final { each("gemm", &Ops::gemm, c, a, {a.a, a.b, a.c}); }
  void grouped_gemm(Context& c, const GroupedGemm& a) final {
    each("grouped_gemm", &Ops::grouped_gemm, c, a, {a.a, a.w, a.y, a.offsets});
  }
  void embedding_forward(Context& c, const EmbeddingForward& a) final {
    each("embedding_forward", &Ops::embedding_forward, c, a, {a.ids, a.table, a.y});
  }
  void embedding_backward(Context& c, const EmbeddingBackward& a) final {
    each("embedding_backward", &Ops::embedding_backward, c, a, {a.ids, a.dy, a.dtable});
  }
  void head_loss(Context& c, const HeadLoss& a) final {
    each("head_loss", &Ops::head_loss, c, a, {a.h, a.w, a.targets, a.loss_sum, a.nll, a.correct, a.dh, a.dw});
  }
  void rms_norm_forward(Context& c, const RmsNormForward& a) final {
    each("rms_norm_forward", &Ops::rms_norm_forward, c, a, {a.h, a.branch, a.weight, a.h_out, a.y, a.rstd});
  }
  void rms_norm_backward(Context& c, const RmsNormBackward& a) final {
    each("rms_norm_backward", &Ops::rms_norm_backward, c, a, {a.dy, a.h, a.weight, a.rstd, a.dh, a.dweight});
  }
  void ssm_norms_forward(Context& c, const SsmNormsForward& a) final {
    each("ssm_norms_forward", &Ops::ssm_norms_forward, c, a,
         {a.p, a.w_dt, a.w_b, a.w_c, a.dt, a.b, a.c, a.rstd});
  }
  void ssm_norms_backward(Context& c, const SsmNormsBackward& a) final {
    each("ssm_norms_backward", &Ops::ssm_norms_backward, c, a,
         {a.ddt, a.db, a.dc, a.p, a.w_dt, a.w_b, a.w_c, a.rstd, a.dp, a.dw_dt, a.dw_b, a.dw_c});
  }
  void conv_forward(Context& c, const ConvForward& a) final {
    each("conv_forward", &Ops::conv_forward, c, a, {a.x, a.w, a.bias, a.left, a.u, a.tail});
  }
  void conv_backward(Context& c, const ConvBackward& a) final {
    each("conv_backward", &Ops::conv_backward, c, a,
         {a.du, a.x, a.w, a.bias, a.left, a.dx, a.dw, a.dbias, a.dleft, a.dtail});
  }
  void scan_forward(Context& c, const ScanForward& a) final {
    each("scan_forward", &Ops::scan_forward, c, a,
         {a.u, a.s, a.z, a.b, a.c, a.a_log, a.d, a.dt_bias, a.h0, a.o, a.h_last, a.states, a.delta_range});
  }
  void scan_backward(Context& c, const ScanBackward& a) final {
    each("scan_backward", &Ops::scan_backward, c, a,
         {a.d_out,   a.u,  a.s,  a.z,  a.b,  a.c,  a.a_log,  a.d,  a.dt_bias,  a.h0, a.states,
          a.dh_last, a.du, a.ds, a.dz, a.db, a.dc, a.da_log, a.dd, a.ddt_bias, a.dh0});
  }
  void scan_carry_forward(Context& c, const ScanCarryForward& a) final {
    each("scan_carry_forward", &Ops::scan_carry_forward, c, a,
         {a.u, a.s, a.b, a.a_log, a.dt_bias, a.h_end, a.decay});
  }
  void scan_carry_backward(Context& c, const ScanCarryBackward& a) final {
    each("scan_carry_backward", &Ops::scan_carry_backward, c, a,
         {a.d_out, a.s, a.z, a.c, a.a_log, a.dt_bias, a.dh0});
  }
  void rope(Context& c, const Rope& a) final { each("rope", &Ops::rope, c, a, {a.x}); }
  void attention_forward(Context& c, const AttentionForward& a) final {
    each("attention_forward", &Ops::attention_forward, c, a, {a.q, a.k, a.v, a.o, a.lse});
  }
  void attention_merge(Context& c, const AttentionMerge& a) final {
    each("attention_merge", &Ops::attention_merge, c, a, {a.o, a.lse, a.part, a.part_lse});
  }
  void attention_delta(Context& c, const AttentionDelta& a) final {
    each("attention_delta", &Ops::attention_delta, c, a, {a.d_out, a.o, a.delta});
  }
  void attention_backward(Context& c, const AttentionBackward& a) final {
    each("attention_backward", &Ops::attention_backward, c, a,
         {a.d_out, a.q, a.k, a.v, a.o, a.lse, a.delta, a.dq, a.dk, a.dv});
  }
  void cache_append(Context& c, const CacheAppend& a) final {
    each("cache_append", &Ops::cache_append, c, a, {a.keys, a.values, a.key_cache, a.value_cache});
  }
  void swiglu_forward(Context& c, const SwigluForward& a) final {
    each("swiglu_forward", &Ops::swiglu_forward, c, a, {a.gate_up, a.h});
  }
  void swiglu_backward(Context& c, const SwigluBackward& a) final {
    each("swiglu_backward", &Ops::swiglu_backward, c, a, {a.dh, a.gate_up, a.dgate_up});
  }
  void router_forward(Context& c, const RouterForward& a) final {
    each("router_forward", &Ops::router_forward, c, a,
         {a.logits, a.probs, a.expert, a.weight, a.lse, a.stats});
  }
  void router_backward(Context& c, const RouterBackward& a) final {
    each("router_backward", &Ops::router_backward, c, a,
         {a.probs, a.expert, a.weight, a.lse, a.dweight, a.dprob, a.dlogits});
  }
  void balance_loss(Context& c, const BalanceLoss& a) final {
    each("balance_loss", &Ops::balance_loss, c, a, {a.stats, a.dprob, a.sums});
  }
  void sort_by_expert(Context& c, const SortByExpert& a) final {
    each("sort_by_expert", &Ops::sort_by_expert, c, a, {a.expert, a.offsets, a.row_of, a.token_of});
  }
  void gather_rows(Context& c, const GatherRows& a) final {
    each("gather_rows", &Ops::gather_rows, c, a, {a.x, a.token_of, a.y});
  }
  void gather_rows_backward(Context& c, const GatherRowsBackward& a) final {
    each("gather_rows_backward", &Ops::gather_rows_backward, c, a, {a.dy, a.row_of, a.dx});
  }
  void combine_forward(Context& c, const CombineForward& a) final {
    each("combine_forward", &Ops::combine_forward, c, a, {a.x, a.row_of, a.weight, a.y});
  }
  void combine_backward(Context& c, const CombineBackward& a) final {
    each("combine_backward", &Ops::combine_backward, c, a, {a.dy, a.x, a.row_of, a.weight, a.dx, a.dweight});
  }
  void scale_copy(Context& c, const ScaleCopy& a) final {
    each("scale_copy", &Ops::scale_copy, c, a, {a.x, a.y});
  }
  void multiply_add(Context& c, const MultiplyAdd& a) final {
    each("multiply_add", &Ops::multiply_add, c, a, {a.a, a.x, a.b, a.y});
  }
  void add_bias(Context& c, const AddBias& a) final { each("add_bias", &Ops::add_bias, c, a, {a.x, a.bias}); }
  void bias_backward(Context& c, const BiasBackward& a) final {
    each("bias_backward", &Ops::bias_backward, c, a, {a.dy, a.dbias});
  }
  void sum_squares(Context& c, const SumSquares& a) final {
    each("sum_squares", &Ops::sum_squares, c, a, {a.x, a.out});
  }
  void adamw(Context& c, const AdamW& a) final {
    each("adamw", &Ops::adamw, c, a, {a.param, a.m, a.v, a.grad, a.compute, a.grad_scale});
  }

 private:
  template <class Op>
  void each(const char* name, void (Ops::*run)(Context&, const Op&), Context& c, const Op& a,
            std::initializer_list<Tensor> tensors) {
    static_cast<Backend*>(this)->forward(name, run, c, a, tensors);
  }
};

}  // namespace jambalaya::test
