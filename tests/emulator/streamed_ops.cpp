#include "tests/emulator/streamed_ops.h"

#include <deque>
#include <map>
#include <mutex>
#include <vector>

#include "tests/emulator/memory.h"
#include "tests/emulator/runtime.h"
#include "tests/support/forwarding_ops.h"

namespace emulator {

using namespace jambalaya;

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

class StreamedOps final : public test::ForwardingOps<StreamedOps> {
 public:
  explicit StreamedOps(std::unique_ptr<Ops> kernels) : kernels_(std::move(kernels)) {
    if (!kernels_) cpu_ = &cpu_ops();
  }
  const char* name() const override { return kernels_ ? kernels_->name() : "cpu, in stream order"; }

  template <class Op>
  void forward(const char*, void (Ops::*run)(Context&, const Op&), Context& ctx, const Op& op,
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

 private:
  /// What a stream's tasks need of a CPU context.
  struct Worker {
    explicit Worker(Ops* cpu) : pool(1), scratch("emulated scratch", int64_t(64) << 30) {
      context.ops = cpu, context.pool = &pool, context.scratch = &scratch;
    }
    ThreadPool pool;
    Arena scratch;
    Context context;
  };
  Worker& worker(void* stream) {
    std::lock_guard lock(mutex_);
    auto& worker = workers_[stream];
    if (!worker) worker = std::make_unique<Worker>(cpu_);
    return *worker;
  }

  std::unique_ptr<Ops> kernels_;
  Ops* cpu_ = nullptr;
  std::mutex mutex_;
  std::map<void*, std::unique_ptr<Worker>> workers_;
};

}  // namespace

std::unique_ptr<Ops> streamed_ops(std::unique_ptr<Ops> kernels) {
  return std::make_unique<StreamedOps>(std::move(kernels));
}

}  // namespace emulator
