#include "train/run/tracer.h"

#include "kernels/trace.h"
#include "parallel/trace_file.h"
#include "train/run/log.h"

namespace jambalaya {

namespace {
std::string file_of(const Config& config) {
  return config.log.trace.empty() && config.log.profile ? config.run.folder + "/profile.json"
                                                        : config.log.trace;
}
}  // namespace

Tracer::Tracer(Runtime& runtime, const Config& config)
    : world_(runtime.mesh().world()), settings_(config.log), file_(file_of(config)) {
  if (settings_.profile) profiler_.emplace(runtime, config);
}

void Tracer::begin_step(ParameterSync& sync) {
  step_++;
  if (file_.empty() || step_ != settings_.trace_from) return;
  sync.settle();
  if (profiler_) profiler_->begin();
  trace::start();
}

void Tracer::end_step(ParameterSync& sync, bool last) {
  if (file_.empty()) return;
  const bool lead = world_.rank() == 0;
  if (last && step_ < settings_.trace_from && lead)
    log_warning(cat("no trace was written to ", file_, ": the job ended with its step ", step_,
                    ", before log.trace_from = ", settings_.trace_from));
  if (!trace::on() || (!last && step_ + 1 < settings_.trace_from + settings_.trace_steps)) return;
  trace::stop();
  sync.settle();
  if (profiler_) profiler_->end();
  write_trace(world_, file_);
  if (lead) log_info(cat("wrote the trace of ", step_ - settings_.trace_from + 1, " steps to ", file_));
}

}  // namespace jambalaya
