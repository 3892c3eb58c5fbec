#include "train/report/time_account.h"

#include <algorithm>
#include <set>

namespace jambalaya {

namespace {

double number(const Json& line, const char* key) {
  const Json* value = line.find(key);
  return value ? value->number : 0;
}
std::string text(const Json& line, const char* key) {
  const Json* value = line.find(key);
  return value ? value->string : "";
}

/// Seconds of steps that made no update.
double skipped_seconds(const RunData& run) {
  std::set<double> steps;
  for (const auto& [step, why] : run.skipped) steps.insert(double(step));
  double seconds = 0;
  for (const auto& [step, value] : run.of("seconds"))
    if (steps.contains(step)) seconds += value;
  return seconds;
}

}  // namespace

std::vector<Session> sessions_of(const RunData& run) {
  std::vector<Session> all;
  for (const Json& line : run.journal) {
    const double time = number(line, "time");
    const auto step = int64_t(number(line, "step"));
    if (text(line, "event") == "start") {
      if (!all.empty() && all.back().why_ended.empty()) {
        // It was killed: it lived at least until its last line, which was cut off since.
        Session& before = all.back();
        before.end = std::clamp(number(line, "previous_until"), before.end, time);
        before.to_step = std::max(before.to_step, step + int64_t(number(line, "redone_steps")));
      }
      all.push_back({.start = time,
                     .end = time,
                     .from_step = step,
                     .to_step = step,
                     .redone_steps = int64_t(number(line, "redone_steps")),
                     .environment = line.find("environment")});
      continue;
    }
    if (all.empty()) continue;
    all.back().end = time;
    all.back().to_step = step;
    if (text(line, "event") == "end") all.back().why_ended = text(line, "why");
  }
  if (!all.empty() && all.back().why_ended.empty()) {
    all.back().end = std::max(all.back().end, run.metrics_written);
    all.back().to_step = std::max(all.back().to_step, run.steps);
  }
  return all;
}

TimeAccount time_account(const RunData& run) {
  const double steps = run.sum("seconds"), skipped = skipped_seconds(run), data = run.sum("data_wait_s"),
               reduce = run.sum("reduce_wait_s");
  double checkpoints = 0, redone = 0;
  for (const Json& line : run.journal) {
    if (text(line, "event") == "checkpoint") checkpoints += number(line, "seconds");
    redone += number(line, "redone_s");
  }
  TimeAccount account;
  for (const Session& session : sessions_of(run)) account.total += session.end - session.start;
  account.total = std::max(account.total, steps);
  account.goodput = account.total > 0 ? (steps - skipped) / account.total : 0;
  account.shares = {{"computation and communication", std::max(steps - skipped - data - reduce, 0.0)},
                    {"waiting for data", data},
                    {"waiting for gradients and gathered values", reduce},
                    {"evaluation and samples", run.sum("evaluation_s")},
                    {"checkpoints", checkpoints},
                    {"skipped steps", skipped},
                    {"steps that were lost and done again", redone}};
  double told = 0;
  for (const TimeShare& share : account.shares) told += share.seconds;
  account.shares.push_back({"other: start, drawing, writing", std::max(account.total - told, 0.0)});
  return account;
}

}  // namespace jambalaya
