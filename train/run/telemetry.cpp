#include "train/run/telemetry.h"

namespace jambalaya {

std::vector<LayerTelemetry> telemetry_of_all_ranks(Jamba& jamba, Mesh& mesh) {
  std::vector<LayerTelemetry> layers = jamba.layer_telemetry();
  std::vector<double> extremes;
  for (const LayerTelemetry& l : layers)
    extremes.insert(extremes.end(), {l.mixer_max, l.channel_max, double(l.delta_max), -double(l.delta_min)});
  mesh.tokens().all_reduce(make_tensor(extremes.data(), {int64_t(extremes.size())}), Reduce::max);
  for (size_t i = 0; i < layers.size(); i++) {
    layers[i].mixer_max = extremes[4 * i];
    layers[i].channel_max = extremes[4 * i + 1];
    layers[i].delta_max = float(extremes[4 * i + 2]);
    layers[i].delta_min = float(-extremes[4 * i + 3]);
  }
  return layers;
}

}  // namespace jambalaya
