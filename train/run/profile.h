// Where the time of training steps went, by kind of work: read from the events of a trace, put beside what
// this machine does at its best, and shown as a table (docs/profile.md).
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/trace.h"
#include "train/run/peaks.h"

namespace jambalaya {

/// What a moment of the main thread is spent on. `rest`: in a step and in none of the others.
enum class Work : uint8_t {
  attention,
  scan,  ///< with the convolution before it
  dense,
  experts,
  routing,
  pointwise,
  exchange,
  head,
  optimizer,
  data,
  evaluation,
  rest
};
inline constexpr size_t kWorks = size_t(Work::rest) + 1;
/// "expert GEMM": for people, and the category of an op's event in the trace.
const char* name_of(Work work);

/// Of the steps of one rank, or of a mean over ranks, summed over the steps.
struct Profile {
  double steps = 0, seconds = 0;       ///< of the steps themselves, not of what lies between them
  std::array<double, kWorks> time{};   ///< seconds; they add up to `seconds`
  std::array<double, kWorks> flops{};  ///< floating-point operations; 0 for kinds that are not counted
  Peaks peaks;
  /// Seconds without those spent in, or waiting for, the other ranks.
  double busy() const { return seconds - time[size_t(Work::exchange)]; }
};

/// From the events of the thread that computes. Each counts without what lies inside it. An op inside
/// an evaluation, the optimizer or the reading of data belongs to that; a scope that names no kind belongs to
/// the one around it. `ranks`: with one, nothing is waited for on a device but copies.
Profile profile_of(const std::vector<trace::Event>& events, int ranks);

/// The table of all ranks of a run, by rank: mean and slowest rank (the one that is busy longest), with
/// sums, shares and the FLOP/s of the mean.
std::string profile_table(const std::vector<Profile>& ranks);

}  // namespace jambalaya
