#include "train/run/console.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "train/run/log.h"

namespace jambalaya {

namespace {

std::string formatted(const char* format, double v) {
  char text[64];
  std::snprintf(text, sizeof text, format, v);
  return text;
}

/// 12.3k, 4.56M
std::string short_number(double v) {
  const char* suffix[] = {"", "k", "M", "G", "T", "P"};
  int i = 0;
  while (v >= 1000 && i < 5) v /= 1000, i++;
  return formatted(v >= 100 || i == 0 ? "%.0f" : "%.3g", v) + suffix[i];
}

std::string clock(double seconds) {
  char text[32];
  long s = std::lround(std::max(seconds, 0.0));
  std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
  return text;
}

std::string speed(const StepReport& r) {
  return cat(short_number(r.tokens_per_s), " tok/s",
             r.ranks > 1 ? cat(" (", short_number(r.tokens_per_s / r.ranks), "/rank)") : "");
}

std::string place(const StepReport& r) {
  return cat("step ", r.step, "/", r.steps, " ",
             formatted("%.1f%%", 100 * double(r.step) / double(std::max<int64_t>(r.steps, 1))));
}

std::string time_left(const StepReport& r) {
  const double per_step = r.step > 0 ? r.elapsed / double(r.step) : 0;
  return cat("eta ", clock((per_step > 0 ? per_step : r.seconds) * double(r.steps - r.step)));
}

std::string joined(const std::vector<std::string>& parts) {
  std::string line;
  for (const std::string& part : parts)
    if (!part.empty()) line += (line.empty() ? "" : " | ") + part;
  return line;
}

}  // namespace

std::string console_line(const StepReport& r) {
  const double load = largest_load(r.layers), waited = r.seconds > 0 ? r.data_wait / r.seconds : 0;
  const std::string load_text = load > 0 ? cat(" load ", formatted("%.2f", load)) : "";
  return joined(
      {place(r), cat("loss ", formatted("%.4f", r.loss)), cat("gnorm ", formatted("%.3f", r.gradient_norm)),
       cat("lr ", formatted("%.2e", r.lr)), speed(r), cat(short_number(r.flops_per_s), "FLOP/s"),
       cat("mem ", formatted("%.2f", double(r.device_bytes ? r.device_bytes : r.rss) / 0x1p30), " GiB"),
       r.aux_loss != 0 ? cat("aux ", formatted("%.3f", r.aux_loss), load_text) : load_text,
       r.held_out_bits_per_byte ? cat("held-out ", formatted("%.4f", *r.held_out_bits_per_byte), " bits/byte")
                                : "",
       r.bad.empty() ? "" : "SKIPPED: " + r.bad,
       waited >= 0.005 ? cat("data ", formatted("%.1f%%", 100 * waited)) : "",
       cat(formatted("%.2f", r.seconds), " s/step"), time_left(r)});
}

std::string progress_line(const StepReport& r, size_t columns) {
  std::string line;
  for (const std::string& part :
       {place(r), cat("loss ", formatted("%.4f", r.loss)), time_left(r), speed(r),
        cat(formatted("%.2f", r.seconds), " s/step"), cat("lr ", formatted("%.2e", r.lr)),
        cat("gnorm ", formatted("%.3f", r.gradient_norm)),
        cat("mem ", formatted("%.2f", double(r.device_bytes ? r.device_bytes : r.rss) / 0x1p30), " GiB")}) {
    const std::string more = (line.empty() ? "" : " | ") + part;
    if (line.size() + more.size() > columns) break;
    line += more;
  }
  return line;
}

void tell_step(const StepReport& report, bool reported) {
  const bool stays = report.held_out_nats || !report.bad.empty() || report.step == report.steps;
  if (stays || (reported && !log_settings().terminal))
    log_info(console_line(report));
  else if (log_settings().terminal)
    log_progress(progress_line(report, log_columns() - 1));  // in the last column some terminals wrap
}

}  // namespace jambalaya
