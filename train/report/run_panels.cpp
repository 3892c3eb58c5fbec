#include "train/report/run_panels.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "train/files.h"

namespace jambalaya {

namespace {

Series scaled(Series series, double factor) {
  for (auto& [step, value] : series) value *= factor;
  return series;
}

/// A column for each reported step, a row for each layer that has the figure.
HeatMap by_layer(const RunData& run, const std::string& title, const std::string& unit, bool log_scale,
                 Keep keep, const std::function<double(const LayerRecord&)>& figure) {
  HeatMap map{.title = title, .unit = unit, .log_scale = log_scale};
  const size_t layers = run.layers.empty() ? 0 : run.layers[0].layers.size();
  for (const LayersAtStep& at : run.layers) map.columns.push_back(double(at.step));
  for (size_t l = 0; l < layers; l++) {
    std::vector<double> row;
    for (const LayersAtStep& at : run.layers)
      row.push_back(l < at.layers.size() ? figure(at.layers[l]) : std::nan(""));
    if (std::none_of(row.begin(), row.end(), [](double v) { return std::isfinite(v); })) continue;
    map.rows.push_back(cat(l));
    map.values.push_back(std::move(row));
  }
  constexpr size_t kColumns = 96;
  merge_columns(map, kColumns, keep);
  return map;
}

double load_of(const LayerRecord& layer) {
  double most = std::nan("");
  for (double share : layer.expert_load) most = std::fmax(most, share * double(layer.expert_load.size()));
  return most;
}

/// Of the last reported step: what each expert of each layer is given.
HeatMap last_loads(const RunData& run) {
  HeatMap map{.title = "Load of every expert", .unit = "1 = balanced", .x_label = "expert"};
  if (run.layers.empty()) return map;
  const LayersAtStep& at = run.layers.back();
  map.title += cat(" at step ", at.step);
  for (size_t l = 0; l < at.layers.size(); l++) {
    const std::vector<double>& load = at.layers[l].expert_load;
    if (load.empty()) continue;
    map.rows.push_back(cat(l));
    map.values.emplace_back();
    for (double share : load) map.values.back().push_back(share * double(load.size()));
    while (map.columns.size() < load.size()) map.columns.push_back(double(map.columns.size()));
  }
  return map;
}

}  // namespace

std::vector<Panel> run_panels(const RunData& run) {
  const double gib = 1 / 0x1p30;
  const auto one = [&](const char* name) { return std::vector<Curve>{{"", run.of(name)}}; };
  const Series& held_out = run.of("held_out_nats_per_token");
  std::vector<Curve> losses = {{held_out.empty() ? "" : "training", run.of("loss")}};
  if (!held_out.empty()) losses.push_back({"held-out", held_out});
  std::vector<Curve> memory = {{"resident", scaled(run.of("rss_bytes"), gib)},
                               {"activations", scaled(run.of("activation_bytes"), gib)},
                               {"scratch", scaled(run.of("scratch_bytes"), gib)}};
  if (!run.of("device_bytes").empty()) memory.push_back({"GPU", scaled(run.of("device_bytes"), gib)});
  return {{.title = "Loss", .unit = "nats per token", .curves = losses},
          {.title = "Held-out text", .unit = "bits per byte", .curves = one("held_out_bits_per_byte")},
          {.title = "Gradient norm, before clipping", .curves = one("grad_norm"), .log_scale = true},
          {.title = "Learning rate", .curves = one("lr"), .from_zero = true},
          {.title = "Speed, all ranks",
           .unit = "tokens per second",
           .curves = one("tokens_per_s"),
           .from_zero = true},
          {.title = "Memory of rank 0", .unit = "GiB", .curves = memory, .from_zero = true},
          {.title = "Experts: largest load of one", .unit = "1 = balanced", .curves = one("max_expert_load")},
          {.title = "Balance loss, without its factor",
           .curves = run.largest("aux_loss") > 0 ? one("aux_loss") : std::vector<Curve>()}};
}

std::vector<HeatMap> run_heat_maps(const RunData& run) {
  std::vector<HeatMap> maps;
  maps.push_back(
      by_layer(run, "Experts: largest load of one, by layer", "1 = balanced", false, Keep::largest, load_of));
  maps.push_back(last_loads(run));
  maps.push_back(by_layer(run, "Mamba: largest step size Δ, by layer", "", true, Keep::largest,
                          [](const LayerRecord& l) { return l.delta_max; }));
  maps.push_back(by_layer(run, "Mamba: smallest step size Δ, by layer", "", true, Keep::smallest,
                          [](const LayerRecord& l) { return l.delta_min; }));
  maps.push_back(by_layer(run, "Largest output of attention or Mamba, by layer", "absolute value", true,
                          Keep::largest, [](const LayerRecord& l) { return l.mixer_max; }));
  maps.push_back(by_layer(run, "Largest output of MLP or experts, by layer", "absolute value", true,
                          Keep::largest, [](const LayerRecord& l) { return l.channel_max; }));
  return maps;
}

void write_run_curves(const RunData& run, const std::string& title) {
  replace_file(run.folder + "/curves.svg", draw_panels(title, run_panels(run)));
}

}  // namespace jambalaya
