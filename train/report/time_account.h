// Where the time of a run went, from its journal and metrics.
#pragma once
#include <string>
#include <vector>

#include "train/report/run_data.h"

namespace jambalaya {

/// One job that worked on the run.
struct Session {
  double start = 0, end = 0;  ///< seconds since 1970; end: when it last gave a sign
  int64_t from_step = 0;
  int64_t to_step = 0;       ///< reached; of one that was killed, the last that it is known to have done
  std::string why_ended;     ///< "" of one that was killed or still works
  int64_t redone_steps = 0;  ///< of earlier ones, that this one did again
  const Json* environment = nullptr;  ///< of RunData::journal
};
std::vector<Session> sessions_of(const RunData& run);

struct TimeShare {
  std::string what;
  double seconds = 0;
};
struct TimeAccount {
  std::vector<TimeShare> shares;  ///< they add up to `total`
  double total = 0;               ///< that jobs of the run were up
  double goodput = 0;             ///< share of it spent in steps that count, waits included
};
/// Without a journal: of the steps alone.
TimeAccount time_account(const RunData& run);

}  // namespace jambalaya
