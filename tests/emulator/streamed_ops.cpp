#include "tests/emulator/streamed_ops.h"

#include <deque>
#include <vector>

#include "tests/emulator/memory.h"
#include "tests/emulator/runtime.h"

namespace emulator {
namespace {

/// A GPU could read and write all of it.
void check_reachable(const Tensor& t) {
  if (!t || t.bytes() == 0) return;
  const auto* first = static_cast<const char*>(t.data);
  const int64_t elements = (t.rows() - 1) * t.row_stride + t.columns();
  for (const char* p : {first, first + elements * size_of(t.dtype) - 1})
    JAMBALAYA_CHECK(kind_of(p) != MemoryKind::pageable, "an op on the device is given ", t.describe(),
                    " in host memory that the device cannot reach");
}

/// Copies of the control arrays that lie in host memory.
class Kept {
 public:
  void keep(Documents& docs) {
    docs.offsets = array(docs.device_offsets, docs.offsets, docs.count + 1);
    docs.first_position = array(docs.device_first_position, docs.first_position, docs.count);
    docs.segment_of = array(docs.device_segment_of, docs.segment_of, docs.tokens);
  }
  void keep(Tensor& x) {
    if (!x || x.numel() == 0 || kind_of(x.data) == MemoryKind::device) return;
    const int64_t* values = x.ptr<int64_t>();
    wide_.emplace_back(values, values + x.numel());
    x.data = wide_.back().data();
  }

 private:
  const int32_t* array(const int32_t* on_device, const int32_t* on_host, int64_t n) {
    if (on_device) return on_device;
    if (!on_host) return nullptr;
    narrow_.emplace_back(on_host, on_host + n);
    return narrow_.back().data();
  }
  std::deque<std::vector<int32_t>> narrow_;
  std::deque<std::vector<int64_t>> wide_;
};

template <class Op>
void keep_control(Op& op, Kept& kept) {
  if constexpr (requires { op.docs; }) kept.keep(op.docs);
  if constexpr (requires { op.key_begin; }) kept.keep(op.key_begin), kept.keep(op.key_count);
  if constexpr (requires { op.host_offsets; }) op.host_offsets = nullptr;
}

}  // namespace

struct StreamedOps::Worker {
  explicit Worker(Ops* cpu) : pool(1), scratch("emulated scratch", int64_t(64) << 30) {
    context.ops = cpu, context.pool = &pool, context.scratch = &scratch;
  }
  ThreadPool pool;
  Arena scratch;
  Context context;
};

StreamedOps::StreamedOps(std::unique_ptr<Ops> kernels) : kernels_(std::move(kernels)) {
  if (!kernels_) cpu_ = &cpu_ops();
}
StreamedOps::~StreamedOps() = default;

const char* StreamedOps::name() const { return kernels_ ? kernels_->name() : "cpu, in stream order"; }

StreamedOps::Worker& StreamedOps::worker(void* stream) {
  std::lock_guard lock(mutex_);
  auto& worker = workers_[stream];
  if (!worker) worker = std::make_unique<Worker>(cpu_);
  return *worker;
}

template <class Op>
void StreamedOps::start(void (Ops::*run)(Context&, const Op&), Context& ctx, const Op& op,
                        std::initializer_list<Tensor> tensors) {
  for (const Tensor& t : tensors) check_reachable(t);
  if (kernels_) return (kernels_.get()->*run)(ctx, op);
  auto* const stream = static_cast<cudaStream_t>(ctx.stream);
  if constexpr (requires { op.combine; })
    if (op.combine) {
      cudaStreamSynchronize(stream);
      const DeviceAccess access;
      Worker here(cpu_);  // not the stream's: other threads may be in its tasks
      return (cpu_->*run)(here.context, op);
    }
  Worker& own = worker(ctx.stream);
  const auto kept = std::make_shared<Kept>();
  Op later = op;
  keep_control(later, *kept);
  enqueue(stream, [this, run, &own, kept, later] { (cpu_->*run)(own.context, later); });
}

void StreamedOps::gemm(Context& c, const Gemm& a) { start(&Ops::gemm, c, a, {a.a, a.b, a.c}); }
void StreamedOps::grouped_gemm(Context& c, const GroupedGemm& a) {
  start(&Ops::grouped_gemm, c, a, {a.a, a.w, a.y, a.offsets});
}
void StreamedOps::embedding_forward(Context& c, const EmbeddingForward& a) {
  start(&Ops::embedding_forward, c, a, {a.ids, a.table, a.y});
}
void StreamedOps::embedding_backward(Context& c, const EmbeddingBackward& a) {
  start(&Ops::embedding_backward, c, a, {a.ids, a.dy, a.dtable});
}
void StreamedOps::head_loss(Context& c, const HeadLoss& a) {
  start(&Ops::head_loss, c, a, {a.h, a.w, a.targets, a.loss_sum, a.nll, a.correct, a.dh, a.dw});
}
void StreamedOps::rms_norm_forward(Context& c, const RmsNormForward& a) {
  start(&Ops::rms_norm_forward, c, a, {a.h, a.branch, a.weight, a.h_out, a.y, a.rstd});
}
void StreamedOps::rms_norm_backward(Context& c, const RmsNormBackward& a) {
  start(&Ops::rms_norm_backward, c, a, {a.dy, a.h, a.weight, a.rstd, a.dh, a.dweight});
}
void StreamedOps::ssm_norms_forward(Context& c, const SsmNormsForward& a) {
  start(&Ops::ssm_norms_forward, c, a, {a.p, a.w_dt, a.w_b, a.w_c, a.dt, a.b, a.c, a.rstd});
}
void StreamedOps::ssm_norms_backward(Context& c, const SsmNormsBackward& a) {
  start(&Ops::ssm_norms_backward, c, a,
        {a.ddt, a.db, a.dc, a.p, a.w_dt, a.w_b, a.w_c, a.rstd, a.dp, a.dw_dt, a.dw_b, a.dw_c});
}
void StreamedOps::conv_forward(Context& c, const ConvForward& a) {
  start(&Ops::conv_forward, c, a, {a.x, a.w, a.bias, a.left, a.u, a.tail});
}
void StreamedOps::conv_backward(Context& c, const ConvBackward& a) {
  start(&Ops::conv_backward, c, a, {a.du, a.x, a.w, a.bias, a.left, a.dx, a.dw, a.dbias, a.dleft, a.dtail});
}
void StreamedOps::scan_forward(Context& c, const ScanForward& a) {
  start(&Ops::scan_forward, c, a,
        {a.u, a.s, a.z, a.b, a.c, a.a_log, a.d, a.dt_bias, a.h0, a.o, a.h_last, a.states, a.delta_range});
}
void StreamedOps::scan_backward(Context& c, const ScanBackward& a) {
  start(&Ops::scan_backward, c, a,
        {a.d_out,   a.u,  a.s,  a.z,  a.b,  a.c,  a.a_log,  a.d,  a.dt_bias,  a.h0, a.states,
         a.dh_last, a.du, a.ds, a.dz, a.db, a.dc, a.da_log, a.dd, a.ddt_bias, a.dh0});
}
void StreamedOps::scan_carry_forward(Context& c, const ScanCarryForward& a) {
  start(&Ops::scan_carry_forward, c, a, {a.u, a.s, a.b, a.a_log, a.dt_bias, a.h_end, a.decay});
}
void StreamedOps::scan_carry_backward(Context& c, const ScanCarryBackward& a) {
  start(&Ops::scan_carry_backward, c, a, {a.d_out, a.s, a.z, a.c, a.a_log, a.dt_bias, a.dh0});
}
void StreamedOps::rope(Context& c, const Rope& a) { start(&Ops::rope, c, a, {a.x}); }
void StreamedOps::attention_forward(Context& c, const AttentionForward& a) {
  start(&Ops::attention_forward, c, a, {a.q, a.k, a.v, a.o, a.lse});
}
void StreamedOps::attention_merge(Context& c, const AttentionMerge& a) {
  start(&Ops::attention_merge, c, a, {a.o, a.lse, a.part, a.part_lse});
}
void StreamedOps::attention_delta(Context& c, const AttentionDelta& a) {
  start(&Ops::attention_delta, c, a, {a.d_out, a.o, a.delta});
}
void StreamedOps::attention_backward(Context& c, const AttentionBackward& a) {
  start(&Ops::attention_backward, c, a, {a.d_out, a.q, a.k, a.v, a.o, a.lse, a.delta, a.dq, a.dk, a.dv});
}
void StreamedOps::swiglu_forward(Context& c, const SwigluForward& a) {
  start(&Ops::swiglu_forward, c, a, {a.gate_up, a.h});
}
void StreamedOps::swiglu_backward(Context& c, const SwigluBackward& a) {
  start(&Ops::swiglu_backward, c, a, {a.dh, a.gate_up, a.dgate_up});
}
void StreamedOps::router_forward(Context& c, const RouterForward& a) {
  start(&Ops::router_forward, c, a, {a.logits, a.probs, a.expert, a.weight, a.lse, a.stats});
}
void StreamedOps::router_backward(Context& c, const RouterBackward& a) {
  start(&Ops::router_backward, c, a, {a.probs, a.expert, a.weight, a.lse, a.dweight, a.dprob, a.dlogits});
}
void StreamedOps::balance_loss(Context& c, const BalanceLoss& a) {
  start(&Ops::balance_loss, c, a, {a.stats, a.dprob, a.sums});
}
void StreamedOps::sort_by_expert(Context& c, const SortByExpert& a) {
  start(&Ops::sort_by_expert, c, a, {a.expert, a.offsets, a.row_of, a.token_of});
}
void StreamedOps::gather_rows(Context& c, const GatherRows& a) {
  start(&Ops::gather_rows, c, a, {a.x, a.token_of, a.y});
}
void StreamedOps::gather_rows_backward(Context& c, const GatherRowsBackward& a) {
  start(&Ops::gather_rows_backward, c, a, {a.dy, a.row_of, a.dx});
}
void StreamedOps::combine_forward(Context& c, const CombineForward& a) {
  start(&Ops::combine_forward, c, a, {a.x, a.row_of, a.weight, a.y});
}
void StreamedOps::combine_backward(Context& c, const CombineBackward& a) {
  start(&Ops::combine_backward, c, a, {a.dy, a.x, a.row_of, a.weight, a.dx, a.dweight});
}
void StreamedOps::scale_copy(Context& c, const ScaleCopy& a) { start(&Ops::scale_copy, c, a, {a.x, a.y}); }
void StreamedOps::multiply_add(Context& c, const MultiplyAdd& a) {
  start(&Ops::multiply_add, c, a, {a.a, a.x, a.b, a.y});
}
void StreamedOps::add_bias(Context& c, const AddBias& a) { start(&Ops::add_bias, c, a, {a.x, a.bias}); }
void StreamedOps::bias_backward(Context& c, const BiasBackward& a) {
  start(&Ops::bias_backward, c, a, {a.dy, a.dbias});
}
void StreamedOps::sum_squares(Context& c, const SumSquares& a) {
  start(&Ops::sum_squares, c, a, {a.x, a.out});
}
void StreamedOps::adamw(Context& c, const AdamW& a) {
  start(&Ops::adamw, c, a, {a.param, a.m, a.v, a.grad, a.compute, a.grad_scale});
}

}  // namespace emulator
