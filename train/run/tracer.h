// A trace of a few steps of a run, of all ranks in one file (log.trace; docs/parallelism.md), and where their
// time went (log.profile; docs/profile.md).
#pragma once
#include <cstdint>
#include <optional>

#include "model/parameter_sync.h"
#include "train/config.h"
#include "train/run/profiler.h"

namespace jambalaya {

class Tracer {
 public:
  /// Does nothing unless `config.log.trace` names a file or `config.log.profile` is set.
  Tracer(Runtime& runtime, const Config& config);
  /// Around every step of the job. Recording begins and ends with nothing on its way on the communication
  /// thread. After the last traced step, or the last of the job, the file is written: collective over the
  /// world, throws Error(io) on every rank when it cannot be.
  void begin_step(ParameterSync& sync);
  void end_step(ParameterSync& sync, bool last);

 private:
  Communicator& world_;
  const LogSection settings_;
  const std::string file_;
  std::optional<Profiler> profiler_;
  int64_t step_ = 0;  ///< of this job, from 1
};

}  // namespace jambalaya
