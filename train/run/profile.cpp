#include "train/run/profile.h"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <string_view>

#include "kernels/error.h"

namespace jambalaya {

namespace {

constexpr std::array<const char*, kWorks> kNames = {"attention",
                                                    "convolution and scan",
                                                    "dense GEMM",
                                                    "expert GEMM",
                                                    "routing",
                                                    "norms and pointwise",
                                                    "exchange between ranks",
                                                    "embedding, head and loss",
                                                    "optimizer",
                                                    "data",
                                                    "evaluation and checkpoint",
                                                    "rest"};

// ---- from events to a profile ----

/// What surrounds an op decides here: an evaluation has products, too.
bool takes_all_inside(Work work) {
  return work == Work::evaluation || work == Work::optimizer || work == Work::data;
}

Work work_of(const trace::Event& event, Work around, int ranks) {
  const std::string_view category = event.category, name = event.name;
  const auto one_of = [](std::string_view text, std::initializer_list<std::string_view> among) {
    return std::find(among.begin(), among.end(), text) != among.end();
  };
  if (category == "step") return Work::rest;
  const bool between_ranks =
      one_of(category, {"communication", "exchange", "wait", "send"}) || (category == "stream" && ranks > 1);
  // Also the norm's sum over ranks; an evaluation's is its own.
  if (between_ranks && (around == Work::optimizer || !takes_all_inside(around))) return Work::exchange;
  if (takes_all_inside(around)) return around;
  for (size_t i = 0; i < kWorks; i++)
    if (category == kNames[i]) return Work(i);
  if (one_of(category, {"evaluation", "checkpoint"})) return Work::evaluation;
  if (one_of(name, {"optimizer", "gradient norm", "gradients to zero"})) return Work::optimizer;
  return around;
}

struct Open {
  int64_t end;
  Work work;
};

// ---- from profiles to a table ----

Profile mean_of(const std::vector<Profile>& ranks) {
  Profile mean;
  const double n = double(ranks.size());
  for (const Profile& p : ranks) {
    mean.steps = p.steps;
    mean.seconds += p.seconds / n;
    for (size_t i = 0; i < kWorks; i++) mean.time[i] += p.time[i] / n, mean.flops[i] += p.flops[i] / n;
  }
  // Shapes are the same on all ranks; a rank on a full device has none.
  mean.peaks = ranks[0].peaks;
  mean.peaks.gemm = mean.peaks.scan = mean.peaks.attention = 0;
  for (const Profile& p : ranks) {
    mean.peaks.gemm += p.peaks.gemm / n;
    mean.peaks.scan += p.peaks.scan / n;
    mean.peaks.attention += p.peaks.attention / n;
  }
  return mean;
}

double peak_of(const Peaks& peaks, Work work) {
  switch (work) {
    case Work::attention:
      return peaks.attention;
    case Work::scan:
      return peaks.scan;
    case Work::dense:
    case Work::experts:
    case Work::head:
      return peaks.gemm;
    default:
      return 0;
  }
}

std::string fixed(double value, int digits) {
  char text[40];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}
/// Three significant digits, as far as they lie behind the point.
std::string short_number(double value) { return fixed(value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0); }
std::string percent(double share) { return cat(fixed(100 * share, 1), " %"); }

std::string line(const std::vector<std::string>& cells) {
  constexpr size_t kFirst = 26, kOthers = 12;
  std::string text;
  for (size_t i = 0; i < cells.size(); i++) {
    const size_t width = i == 0 ? kFirst : kOthers;
    const std::string blanks(width - std::min(width, cells[i].size()), ' ');
    text += i == 0 ? cells[i] + blanks : blanks + cells[i];
  }
  while (text.ends_with(' ')) text.pop_back();
  return text + "\n";
}

class Table {
 public:
  explicit Table(const std::vector<Profile>& ranks) : ranks_(ranks), mean_(mean_of(ranks)) {
    const auto later = [](const Profile& a, const Profile& b) { return a.busy() < b.busy(); };
    slowest_ = size_t(std::max_element(ranks.begin(), ranks.end(), later) - ranks.begin());
  }

  std::string text() const {
    std::vector<std::string> titles = {"", "ms a step", "share"};
    if (several()) titles.push_back(cat("rank ", slowest_, " ms"));
    for (const char* title : {"GFLOP", "GFLOP/s", "of peak"}) titles.push_back(title);
    std::string text = heading() + line(titles);
    for (size_t i = 0; i < kWorks; i++)
      if (ranks_[slowest_].time[i] > 0 || mean_.time[i] > 0)
        text += row(kNames[i], mean_.time[i], ranks_[slowest_].time[i], mean_.flops[i],
                    peak_of(mean_.peaks, Work(i)));
    const double flops = std::accumulate(mean_.flops.begin(), mean_.flops.end(), 0.0);
    text += row("step", mean_.seconds, ranks_[slowest_].seconds, flops, 0);
    return text + footing();
  }

 private:
  bool several() const { return ranks_.size() > 1; }
  std::string ms(double seconds) const { return fixed(1e3 * seconds / mean_.steps, 2); }

  std::string heading() const {
    std::string text = cat("profile of ", int64_t(mean_.steps),
                           mean_.steps == 1 ? " step: " : " steps: ", ms(mean_.seconds), " ms each");
    if (several())
      text += cat(", mean of ", ranks_.size(), " ranks; rank ", slowest_, " is busy longest, ",
                  ms(ranks_[slowest_].busy()), " ms against ", ms(mean_.busy()), " ms");
    return text + "\n";
  }

  std::string row(const char* name, double time, double slowest, double flops, double peak) const {
    std::vector<std::string> cells = {name, ms(time), percent(time / mean_.seconds)};
    if (several()) cells.push_back(ms(slowest));
    if (flops > 0 && time > 0) {
      cells.push_back(short_number(flops / mean_.steps / 1e9));
      cells.push_back(short_number(flops / time / 1e9));
      if (peak > 0) cells.push_back(percent(flops / time / peak));
    }
    return line(cells);
  }

  std::string footing() const {
    const Peaks& p = mean_.peaks;
    if (p.gemm <= 0)
      return "peaks were not measured: too little memory is free on the device, or it is emulated";
    const auto peak = [](double flops) { return cat(short_number(flops / 1e9), " GFLOP/s"); };
    std::string text =
        cat("peaks ", several() ? "a rank, all at once, " : "", "by this program's kernels: GEMM ",
            peak(p.gemm), " (", p.gemm_size, " x ", p.gemm_size, " x ", p.gemm_size, ")");
    if (p.scan > 0)
      text += cat(", scan ", peak(p.scan), " (", p.scan_tokens, " tokens, ", p.scan_channels, " channels)");
    if (p.attention > 0)
      text += cat(", attention ", peak(p.attention), " (", p.attention_tokens, " tokens, ", p.attention_heads,
                  " heads)");
    double at_peak = 0;
    for (size_t i = 0; i < kWorks; i++)
      if (const double of = peak_of(p, Work(i)); of > 0) at_peak += mean_.flops[i] / of;
    return cat(text, "\nat these peaks the counted operations would take ", ms(at_peak),
               " ms: ", percent(at_peak / mean_.seconds), " of the step");
  }

  const std::vector<Profile>& ranks_;
  Profile mean_;
  size_t slowest_ = 0;
};

}  // namespace

const char* name_of(Work work) { return kNames[size_t(work)]; }

Profile profile_of(const std::vector<trace::Event>& events, int ranks) {
  // Outer scopes first. An event is recorded at its end, so of two that cover the same time the later one is
  // around the other.
  std::vector<trace::Event> sorted(events.rbegin(), events.rend());
  std::stable_sort(sorted.begin(), sorted.end(), [](const trace::Event& a, const trace::Event& b) {
    return a.begin_ns != b.begin_ns ? a.begin_ns < b.begin_ns : a.end_ns > b.end_ns;
  });
  Profile profile;
  std::vector<Open> open;
  for (const trace::Event& event : sorted) {
    while (!open.empty() && event.begin_ns >= open.back().end) open.pop_back();
    const bool step = std::string_view(event.category) == "step";
    if (open.empty() && !step) continue;
    const double seconds = double(event.end_ns - event.begin_ns) * 1e-9;
    const Work work = work_of(event, open.empty() ? Work::rest : open.back().work, ranks);
    profile.time[size_t(work)] += seconds;
    if (step)
      profile.steps++, profile.seconds += seconds;
    else
      profile.time[size_t(open.back().work)] -= seconds;
    if (event.counts && std::string_view(event.counts) == "flop")
      profile.flops[size_t(work)] += double(event.number);
    open.push_back({event.end_ns, work});
  }
  return profile;
}

std::string profile_table(const std::vector<Profile>& ranks) { return Table(ranks).text(); }

}  // namespace jambalaya
