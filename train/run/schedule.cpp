#include "train/run/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace jambalaya {

double learning_rate(const OptimizerSection& o, int64_t step, int64_t steps) {
  if (step < o.warmup_steps) return o.lr * double(step + 1) / double(o.warmup_steps);
  const double last = double(std::max<int64_t>(steps - 1, 1));
  switch (o.schedule) {
    case Schedule::constant:
      return o.lr;
    case Schedule::cosine: {
      // The peak is the last warm-up step, the final rate that of the last update.
      double from = double(std::max<int64_t>(o.warmup_steps - 1, 0));
      double progress = last > from ? std::clamp((double(step) - from) / (last - from), 0.0, 1.0) : 1.0;
      return o.lr * (o.final_lr + (1 - o.final_lr) * 0.5 * (1 + std::cos(std::numbers::pi * progress)));
    }
    case Schedule::wsd: {
      // The decay begins where the warm-up ends at the earliest.
      double begin =
          std::max(double(steps) * (1 - o.decay_share), double(std::min(o.warmup_steps, steps - 1)));
      double length = std::max(double(steps) - begin, 1.0);
      double progress = std::clamp((double(step) + 1 - begin) / length, 0.0, 1.0);
      return o.lr * (1 - (1 - o.final_lr) * progress);
    }
  }
  return o.lr;
}

int64_t sequence_length_at(const DataSection& data, int64_t step) {
  int64_t length = data.sequence_length;
  for (auto [from, tokens] : data.length_schedule)
    if (step >= from) length = tokens;
  return length;
}

}  // namespace jambalaya
