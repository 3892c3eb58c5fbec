#include "train/run/record.h"

#include <sys/stat.h>

#include "train/report/run_panels.h"
#include "train/report/run_report.h"
#include "train/run/log.h"

namespace jambalaya {

namespace {

std::string path_in(const Config& config, const char* name) { return cat(config.run.folder, "/", name); }

/// Of a line of metrics.jsonl; 0 when it is damaged, for it is about to be cut off.
double step_seconds(std::string_view line) {
  try {
    const Json json = parse_json(line, "metrics.jsonl");
    return JsonReader(json, "metrics.jsonl", Exit::bad_input).child("timing").number("seconds");
  } catch (const Error&) {
    return 0;
  }
}

/// What an earlier job did that this one does again: the steps behind the checkpoint, and when it last wrote.
Json redone(const std::string& metrics, int64_t keep_bytes) {
  Json facts = Json::make_object();
  struct stat file {};
  if (stat(metrics.c_str(), &file) != 0 || file.st_size == 0) return facts;
  int64_t bytes = 0, steps = 0;
  double seconds = 0;
  const FileDescriptor open = open_regular_file(metrics, bytes);
  std::string tail(size_t(std::max<int64_t>(bytes - keep_bytes, 0)), '\0');
  read_exactly(open, metrics, bytes - int64_t(tail.size()), int64_t(tail.size()), tail.data());
  for (std::string_view rest = whole_lines(tail); !rest.empty(); steps++) {
    const std::string_view line = rest.substr(0, rest.find('\n') + 1);
    rest.remove_prefix(line.size());
    seconds += step_seconds(line);
  }
  facts.set("previous_until", double(file.st_mtim.tv_sec) + 1e-9 * double(file.st_mtim.tv_nsec));
  return facts.set("redone_steps", steps).set("redone_s", seconds);
}

}  // namespace

RunRecord::RunRecord(const Config& config, const Json& environment, const TrainState& state)
    : config_(config), journal_(path_in(config, "journal.jsonl")) {
  Json facts = Json::make_object();
  facts.set("step", state.step).set("steps", config.train.steps);
  for (auto& [key, value] : redone(path_in(config, "metrics.jsonl"), state.metrics_bytes).object)
    facts.set(key, value);
  facts.set("environment", environment);
  open(state);
  journal_.write("start", facts);
}

void RunRecord::open(const TrainState& state) {
  metrics_ = nullptr;  // two writers would be at odds
  metrics_ = std::make_unique<MetricsFile>(path_in(config_, "metrics.jsonl"), state.metrics_bytes);
  cut_samples(path_in(config_, "samples.jsonl"), state.step);
  if (config_.log.tensorboard) events_.emplace(path_in(config_, "tb"), state.step + 1);
}

void RunRecord::step(const StepReport& report) {
  metrics_->write(report.json());
  if (events_) events_->write(report.step, scalars_of(report));
}

void RunRecord::samples(int64_t step, const std::vector<Sample>& samples) {
  append_samples(path_in(config_, "samples.jsonl"), step, samples);
}

void RunRecord::checkpoint(int64_t step, double seconds) {
  Json facts = Json::make_object();
  journal_.write("checkpoint", facts.set("step", step).set("seconds", seconds));
  const std::chrono::duration<double> since = std::chrono::steady_clock::now() - drawn_;
  if (drawing_seconds_ == 0 || since.count() > 100 * drawing_seconds_) draw();
}

void RunRecord::rewind(const TrainState& state, int64_t from_step, const std::string& why) {
  Json facts = Json::make_object();
  facts.set("step", state.step).set("from_step", from_step).set("why", why);
  for (auto& [key, value] : redone(path_in(config_, "metrics.jsonl"), state.metrics_bytes).object)
    if (key != "previous_until") facts.set(key, value);
  journal_.write("rewind", facts);
  open(state);
}

void RunRecord::end(int64_t step, const std::string& why) {
  Json facts = Json::make_object();
  journal_.write("end", facts.set("step", step).set("why", why));
  draw();
}

/// A picture that cannot be drawn is no reason to lose a run.
void RunRecord::draw() {
  const auto start = std::chrono::steady_clock::now();
  try {
    const RunData run = read_run(config_.run.folder);
    write_run_curves(run, cat(run.name, ": ", notation_of(config_.model)));
    write_run_report(run);
  } catch (const Error& e) {
    log_warning(cat("the run's pictures were not drawn: ", e.what()));
  }
  drawn_ = std::chrono::steady_clock::now();
  drawing_seconds_ = std::chrono::duration<double>(drawn_ - start).count();
}

}  // namespace jambalaya
