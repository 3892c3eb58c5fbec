#include "train/run/profiled_ops.h"

#include "kernels/trace.h"
#include "kernels/transfer.h"
#include "model/op_flops.h"
#include "train/run/profile.h"

namespace jambalaya {

namespace {

/// What is on the stream before an op is not that op's: copies, and on several ranks the communication that
/// the stream was told to wait for.
void wait_for_stream(Context& ctx) {
  if (ctx.device == Device::cpu) return;
  TraceScope waited("wait for the stream", "stream");
  synchronize(ctx);
}

template <class Op, class Call>
void profiled(Context& ctx, bool& inside, const char* name, Work work, double flops, const Op& op,
              const Call& call) {
  if (inside || !trace::on()) return call(ctx, op);
  wait_for_stream(ctx);
  trace::Event event = {.name = name, .category = name_of(work), .begin_ns = trace::now_ns()};
  if (flops > 0) event.counts = "flop", event.number = int64_t(flops);
  inside = true;
  try {
    call(ctx, op);
    synchronize(ctx);
  } catch (...) {
    inside = false;
    throw;
  }
  inside = false;
  event.end_ns = trace::now_ns();
  trace::record(event);
}

}  // namespace

void ProfiledOps::gemm(Context& ctx, const Gemm& op) {
  profiled(ctx, inside_, "gemm", Work::dense, flops_of(op), op, [&](auto& c, auto& o) { ops_.gemm(c, o); });
}
void ProfiledOps::grouped_gemm(Context& ctx, const GroupedGemm& op) {
  profiled(ctx, inside_, "grouped gemm", Work::experts, flops_of(op), op,
           [&](auto& c, auto& o) { ops_.grouped_gemm(c, o); });
}
void ProfiledOps::embedding_forward(Context& ctx, const EmbeddingForward& op) {
  profiled(ctx, inside_, "embedding forward", Work::head, 0, op,
           [&](auto& c, auto& o) { ops_.embedding_forward(c, o); });
}
void ProfiledOps::embedding_backward(Context& ctx, const EmbeddingBackward& op) {
  profiled(ctx, inside_, "embedding backward", Work::head, 0, op,
           [&](auto& c, auto& o) { ops_.embedding_backward(c, o); });
}
void ProfiledOps::head_loss(Context& ctx, const HeadLoss& op) {
  profiled(ctx, inside_, "head loss", Work::head, flops_of(op), op,
           [&](auto& c, auto& o) { ops_.head_loss(c, o); });
}
void ProfiledOps::rms_norm_forward(Context& ctx, const RmsNormForward& op) {
  profiled(ctx, inside_, "rms norm forward", Work::pointwise, 0, op,
           [&](auto& c, auto& o) { ops_.rms_norm_forward(c, o); });
}
void ProfiledOps::rms_norm_backward(Context& ctx, const RmsNormBackward& op) {
  profiled(ctx, inside_, "rms norm backward", Work::pointwise, 0, op,
           [&](auto& c, auto& o) { ops_.rms_norm_backward(c, o); });
}
void ProfiledOps::ssm_norms_forward(Context& ctx, const SsmNormsForward& op) {
  profiled(ctx, inside_, "ssm norms forward", Work::pointwise, 0, op,
           [&](auto& c, auto& o) { ops_.ssm_norms_forward(c, o); });
}
void ProfiledOps::ssm_norms_backward(Context& ctx, const SsmNormsBackward& op) {
  profiled(ctx, inside_, "ssm norms backward", Work::pointwise, 0, op,
           [&](auto& c, auto& o) { ops_.ssm_norms_backward(c, o); });
}
void ProfiledOps::conv_forward(Context& ctx, const ConvForward& op) {
  profiled(ctx, inside_, "conv forward", Work::scan, flops_of(op), op,
           [&](auto& c, auto& o) { ops_.conv_forward(c, o); });
}
void ProfiledOps::conv_backward(Context& ctx, const ConvBackward& op) {
  profiled(ctx, inside_, "conv backward", Work::scan, flops_of(op), op,
           [&](auto& c, auto& o) { ops_.conv_backward(c, o); });
}
void ProfiledOps::scan_forward(Context& ctx, const ScanForward& op) {
  profiled(ctx, inside_, "scan forward", Work::scan, flops_of(op), op,
           [&](auto& c, auto& o) { ops_.scan_forward(c, o); });
}
void ProfiledOps::scan_backward(Context& ctx, const ScanBackward& op) {
  profiled(ctx, inside_, "scan backward", Work::scan, flops_of(op), op,
           [&](auto& c, auto& o) { ops_.scan_backward(c, o); });
}
void ProfiledOps::scan_carry_forward(Context& ctx, const ScanCarryForward& op) {
  profiled(ctx, inside_, "scan carry forward", Work::scan, 0, op,
           [&](auto& c, auto& o) { ops_.scan_carry_forward(c, o); });
}
void ProfiledOps::scan_carry_backward(Context& ctx, const ScanCarryBackward& op) {
  profiled(ctx, inside_, "scan carry backward", Work::scan, 0, op,
           [&](auto& c, auto& o) { ops_.scan_carry_backward(c, o); });
}
void ProfiledOps::rope(Context& ctx, const Rope& op) {
  profiled(ctx, inside_, "rope", Work::attention, 0, op, [&](auto& c, auto& o) { ops_.rope(c, o); });
}
void ProfiledOps::attention_forward(Context& ctx, const AttentionForward& op) {
  profiled(ctx, inside_, "attention forward", Work::attention, flops_of(op), op,
           [&](auto& c, auto& o) { ops_.attention_forward(c, o); });
}
void ProfiledOps::attention_merge(Context& ctx, const AttentionMerge& op) {
  profiled(ctx, inside_, "attention merge", Work::attention, 0, op,
           [&](auto& c, auto& o) { ops_.attention_merge(c, o); });
}
void ProfiledOps::attention_delta(Context& ctx, const AttentionDelta& op) {
  profiled(ctx, inside_, "attention delta", Work::attention, 0, op,
           [&](auto& c, auto& o) { ops_.attention_delta(c, o); });
}
void ProfiledOps::attention_backward(Context& ctx, const AttentionBackward& op) {
  profiled(ctx, inside_, "attention backward", Work::attention, flops_of(op), op,
           [&](auto& c, auto& o) { ops_.attention_backward(c, o); });
}
void ProfiledOps::cache_append(Context& ctx, const CacheAppend& op) {
  profiled(ctx, inside_, "cache append", Work::attention, 0, op,
           [&](auto& c, auto& o) { ops_.cache_append(c, o); });
}
void ProfiledOps::swiglu_forward(Context& ctx, const SwigluForward& op) {
  profiled(ctx, inside_, "swiglu forward", Work::pointwise, 0, op,
           [&](auto& c, auto& o) { ops_.swiglu_forward(c, o); });
}
void ProfiledOps::swiglu_backward(Context& ctx, const SwigluBackward& op) {
  profiled(ctx, inside_, "swiglu backward", Work::pointwise, 0, op,
           [&](auto& c, auto& o) { ops_.swiglu_backward(c, o); });
}
void ProfiledOps::router_forward(Context& ctx, const RouterForward& op) {
  profiled(ctx, inside_, "router forward", Work::routing, 0, op,
           [&](auto& c, auto& o) { ops_.router_forward(c, o); });
}
void ProfiledOps::router_backward(Context& ctx, const RouterBackward& op) {
  profiled(ctx, inside_, "router backward", Work::routing, 0, op,
           [&](auto& c, auto& o) { ops_.router_backward(c, o); });
}
void ProfiledOps::balance_loss(Context& ctx, const BalanceLoss& op) {
  profiled(ctx, inside_, "balance loss", Work::routing, 0, op,
           [&](auto& c, auto& o) { ops_.balance_loss(c, o); });
}
void ProfiledOps::sort_by_expert(Context& ctx, const SortByExpert& op) {
  profiled(ctx, inside_, "sort by expert", Work::routing, 0, op,
           [&](auto& c, auto& o) { ops_.sort_by_expert(c, o); });
}
void ProfiledOps::gather_rows(Context& ctx, const GatherRows& op) {
  profiled(ctx, inside_, "gather rows", Work::routing, 0, op,
           [&](auto& c, auto& o) { ops_.gather_rows(c, o); });
}
void ProfiledOps::gather_rows_backward(Context& ctx, const GatherRowsBackward& op) {
  profiled(ctx, inside_, "gather rows backward", Work::routing, 0, op,
           [&](auto& c, auto& o) { ops_.gather_rows_backward(c, o); });
}
void ProfiledOps::combine_forward(Context& ctx, const CombineForward& op) {
  profiled(ctx, inside_, "combine forward", Work::routing, 0, op,
           [&](auto& c, auto& o) { ops_.combine_forward(c, o); });
}
void ProfiledOps::combine_backward(Context& ctx, const CombineBackward& op) {
  profiled(ctx, inside_, "combine backward", Work::routing, 0, op,
           [&](auto& c, auto& o) { ops_.combine_backward(c, o); });
}
void ProfiledOps::scale_copy(Context& ctx, const ScaleCopy& op) {
  profiled(ctx, inside_, "scale copy", Work::pointwise, 0, op,
           [&](auto& c, auto& o) { ops_.scale_copy(c, o); });
}
void ProfiledOps::multiply_add(Context& ctx, const MultiplyAdd& op) {
  profiled(ctx, inside_, "multiply add", Work::pointwise, 0, op,
           [&](auto& c, auto& o) { ops_.multiply_add(c, o); });
}
void ProfiledOps::add_bias(Context& ctx, const AddBias& op) {
  profiled(ctx, inside_, "add bias", Work::pointwise, 0, op, [&](auto& c, auto& o) { ops_.add_bias(c, o); });
}
void ProfiledOps::bias_backward(Context& ctx, const BiasBackward& op) {
  profiled(ctx, inside_, "bias backward", Work::pointwise, 0, op,
           [&](auto& c, auto& o) { ops_.bias_backward(c, o); });
}
void ProfiledOps::sum_squares(Context& ctx, const SumSquares& op) {
  profiled(ctx, inside_, "sum squares", Work::pointwise, 0, op,
           [&](auto& c, auto& o) { ops_.sum_squares(c, o); });
}
void ProfiledOps::adamw(Context& ctx, const AdamW& op) {
  profiled(ctx, inside_, "adamw", Work::optimizer, 0, op, [&](auto& c, auto& o) { ops_.adamw(c, o); });
}

}  // namespace jambalaya
