// Profiles the traced steps of a run (log.profile; docs/profile.md).
#pragma once
#include "train/config.h"
#include "train/run/profile.h"
#include "train/run/profiled_ops.h"
#include "train/run/runtime.h"

namespace jambalaya {

class Profiler {
 public:
  /// Nothing is measured or changed until begin().
  Profiler(Runtime& runtime, const Config& config);
  /// The context computes with the ops that it had before.
  ~Profiler();
  Profiler(const Profiler&) = delete;
  Profiler& operator=(const Profiler&) = delete;
  /// Measures the peaks, then lets every op of the runtime's context record itself. Before trace::start().
  void begin();
  /// Measures the peaks again. Prints the table of what this thread has recorded since trace::start(), and
  /// writes it to profile.txt in the run's folder. After trace::stop(), before the events are taken;
  /// collective over the world. Throws Error(io) on rank 0 when the file cannot be written.
  void end();

 private:
  void restore();
  void measure();
  Runtime& runtime_;
  const Config& config_;
  Ops& plain_;
  ProfiledOps profiled_;
  Peaks peaks_;
};

}  // namespace jambalaya
