#include "train/report/run_data.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>

#include "train/files.h"
#include "train/run/journal.h"

namespace jambalaya {

namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
constexpr int64_t kMostBytes = int64_t(1) << 33;

bool is_number(const Json& value) { return value.is(Json::Kind::number) || value.is(Json::Kind::integer); }
/// "nan" and "inf" are strings in JSON.
double number_of(const Json* value) { return value && is_number(*value) ? value->number : kNone; }

void each_line(const std::string& path,
               const std::function<void(const Json&, const std::string& place)>& use) {
  if (!std::filesystem::exists(path)) return;
  const std::string text = read_small_file(path, kMostBytes);
  std::string_view rest = whole_lines(text);
  for (int line = 1; !rest.empty(); line++) {
    const std::string place = cat(path, ":", line);
    const std::string_view one = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(one.size() + 1);
    use(parse_json(one, place), place);
  }
}

LayersAtStep layers_of(int64_t step, const Json& list) {
  LayersAtStep all{step, {}};
  for (const Json& json : list.array) {
    LayerRecord layer{number_of(json.find("mixer_max")),
                      number_of(json.find("channel_max")),
                      number_of(json.find("delta_min")),
                      number_of(json.find("delta_max")),
                      {}};
    if (const Json* load = json.find("expert_load"))
      for (const Json& share : load->array) layer.expert_load.push_back(number_of(&share));
    all.layers.push_back(std::move(layer));
  }
  return all;
}

/// Every number of the line that is not the step, under its name.
void add_numbers(RunData& run, double step, const Json& object) {
  for (const auto& [key, value] : object.object)
    if (key != "step" && (is_number(value) || (value.is(Json::Kind::string) && key != "skipped")))
      run.series[key].emplace_back(step, number_of(&value));
}

void read_metrics(RunData& run, const std::string& path) {
  each_line(path, [&](const Json& json, const std::string& place) {
    const JsonReader reader(json, place, Exit::bad_input);
    run.steps = reader.integer("step");
    add_numbers(run, double(run.steps), json);
    if (const Json* timing = json.find("timing")) add_numbers(run, double(run.steps), *timing);
    if (const Json* layers = json.find("layers")) run.layers.push_back(layers_of(run.steps, *layers));
    if (reader.has("skipped")) run.skipped.emplace_back(run.steps, reader.string("skipped"));
  });
}

}  // namespace

const Series& RunData::of(const std::string& key) const {
  static const Series none;
  const auto found = series.find(key);
  return found == series.end() ? none : found->second;
}

double RunData::last(const std::string& key) const {
  const Series& all = of(key);
  for (auto at = all.rbegin(); at != all.rend(); ++at)
    if (std::isfinite(at->second)) return at->second;
  return kNone;
}

double RunData::sum(const std::string& key) const {
  double total = 0;
  for (const auto& [step, value] : of(key))
    if (std::isfinite(value)) total += value;
  return total;
}

double RunData::largest(const std::string& key) const {
  double most = 0;
  for (const auto& [step, value] : of(key))
    if (std::isfinite(value)) most = std::max(most, value);
  return most;
}

double RunData::median(const std::string& key) const {
  std::vector<double> values;
  for (const auto& [step, value] : of(key))
    if (std::isfinite(value)) values.push_back(value);
  if (values.empty()) return kNone;
  std::nth_element(values.begin(), values.begin() + long(values.size() / 2), values.end());
  return values[values.size() / 2];
}

RunData read_run(const std::string& folder) {
  RunData run;
  run.folder = folder;
  const std::filesystem::path path(folder);
  run.name = (path.has_filename() ? path : path.parent_path()).filename().string();
  const std::string metrics = folder + "/metrics.jsonl";
  struct stat file {};
  if (stat(metrics.c_str(), &file) != 0)
    throw Error(Exit::bad_input, cat(metrics, ": ", system_reason(),
                                     "; name the folder of a run, as run.folder of its config does"));
  run.metrics_written = double(file.st_mtim.tv_sec) + 1e-9 * double(file.st_mtim.tv_nsec);
  read_metrics(run, metrics);
  each_line(folder + "/samples.jsonl", [&](const Json& json, const std::string& place) {
    const JsonReader reader(json, place, Exit::bad_input);
    run.samples.push_back({reader.integer("step"), reader.string("prompt"), reader.string("text")});
  });
  each_line(folder + "/journal.jsonl", [&](const Json& json, const std::string& place) {
    const JsonReader reader(json, place, Exit::bad_input);
    reader.string("event");
    reader.number("time");
    run.journal.push_back(json);
  });
  if (std::filesystem::exists(folder + "/config.yaml"))
    run.config_yaml = read_small_file(folder + "/config.yaml", 1 << 20);
  return run;
}

}  // namespace jambalaya
