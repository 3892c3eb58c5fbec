#include "train/run/profiler.h"

#include <algorithm>

#include "train/files.h"
#include "train/run/log.h"

namespace jambalaya {

namespace {

constexpr size_t kFigures = 2 * kWorks + 5;

void pack(const Profile& p, double* to) {
  for (const auto* values : {&p.time, &p.flops}) to = std::copy(values->begin(), values->end(), to);
  for (double x : {p.steps, p.seconds, p.peaks.gemm, p.peaks.scan, p.peaks.attention}) *to++ = x;
}

/// `like`: shapes are the same on all ranks.
Profile unpack(const double* from, const Profile& like) {
  Profile p = like;
  for (auto* values : {&p.time, &p.flops})
    for (double& x : *values) x = *from++;
  for (double* x : {&p.steps, &p.seconds, &p.peaks.gemm, &p.peaks.scan, &p.peaks.attention}) *x = *from++;
  return p;
}

std::vector<Profile> of_all_ranks(Communicator& world, const Profile& mine) {
  std::vector<double> own(kFigures), all(kFigures * size_t(world.size()));
  pack(mine, own.data());
  world.all_gather(make_tensor(own.data(), {int64_t(kFigures)}),
                   make_tensor(all.data(), {world.size(), int64_t(kFigures)}));
  std::vector<Profile> ranks;
  for (size_t at = 0; at < all.size(); at += kFigures) ranks.push_back(unpack(&all[at], mine));
  return ranks;
}

}  // namespace

Profiler::Profiler(Runtime& runtime, const Config& config)
    : runtime_(runtime), config_(config), plain_(*runtime.context().ops), profiled_(plain_) {}

Profiler::~Profiler() { restore(); }

void Profiler::restore() { runtime_.context().ops = &plain_; }

/// The best so far: a machine that others use, too, is not always at its best.
void Profiler::measure() {
  runtime_.mesh().world().barrier();  // ranks that share a machine measure what it gives to all of them
  const Peaks before = peaks_;
  peaks_ = measure_peaks(runtime_.context(), config_.model,
                         config_.train.precision == Precision::bf16 ? DType::bf16 : DType::f32);
  peaks_.gemm = std::max(peaks_.gemm, before.gemm);
  peaks_.scan = std::max(peaks_.scan, before.scan);
  peaks_.attention = std::max(peaks_.attention, before.attention);
  const Accelerator* const device = runtime_.context().accelerator;
  if (device && device->properties().emulated) peaks_ = {};  // measured all the same, as on a GPU
}

void Profiler::begin() {
  measure();
  runtime_.context().ops = &profiled_;
}

void Profiler::end() {
  restore();
  measure();
  Communicator& world = runtime_.mesh().world();
  int64_t dropped = 0;
  Profile mine = profile_of(trace::events_of_this_thread(&dropped), world.size());
  mine.peaks = peaks_;
  const std::vector<Profile> ranks = of_all_ranks(world, mine);
  world.all_reduce(make_tensor(&dropped, {1}), Reduce::max);
  if (dropped > 0 && runtime_.lead())
    log_warning(cat("the profile lacks ", dropped,
                    " events, for which no memory was left; their time counts where they lie in: lower "
                    "log.trace_steps"));
  if (!runtime_.lead()) return;
  std::string text = profile_table(ranks);
  if (runtime_.context().accelerator)
    text +=
        "\nops were waited for one by one: the steps took longer than without a profile, and nothing "
        "overlapped";
  log_info(text);
  replace_file(config_.run.folder + "/profile.txt", text + "\n");
}

}  // namespace jambalaya
