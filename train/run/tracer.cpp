#include "train/run/tracer.h"

#include "kernels/trace.h"
#include "parallel/trace_file.h"
#include "train/run/log.h"

namespace jambalaya {

Tracer::Tracer(Communicator& world, const LogSection& settings) : world_(world), settings_(settings) {}

void Tracer::begin_step(ParameterSync& sync) {
  step_++;
  if (settings_.trace.empty() || step_ != settings_.trace_from) return;
  sync.settle();
  trace::start();
}

void Tracer::end_step(ParameterSync& sync, bool last) {
  if (settings_.trace.empty()) return;
  const bool lead = world_.rank() == 0;
  if (last && step_ < settings_.trace_from && lead)
    log_warning(cat("no trace was written to ", settings_.trace, ": the job ended with its step ", step_,
                    ", before log.trace_from = ", settings_.trace_from));
  if (!trace::on() || (!last && step_ + 1 < settings_.trace_from + settings_.trace_steps)) return;
  trace::stop();
  sync.settle();
  write_trace(world_, settings_.trace);
  if (lead)
    log_info(cat("wrote the trace of ", step_ - settings_.trace_from + 1, " steps to ", settings_.trace));
}

}  // namespace jambalaya
