#include "train/run/report.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

namespace jambalaya {

namespace {

Json layers_json(const std::vector<LayerTelemetry>& layers) {
  Json all = Json::make_array();
  for (const LayerTelemetry& t : layers) {
    Json layer = Json::make_object();
    layer.set("mixer_max", json_number(t.mixer_max)).set("channel_max", json_number(t.channel_max));
    if (t.delta_max > 0)
      layer.set("delta_min", json_number(double(t.delta_min)))
          .set("delta_max", json_number(double(t.delta_max)));
    if (!t.expert_load.empty()) {
      Json load = Json::make_array();
      for (float share : t.expert_load) load.array.push_back(json_number(double(share)));
      layer.set("expert_load", std::move(load));
    }
    all.array.push_back(std::move(layer));
  }
  return all;
}

}  // namespace

double largest_load(const std::vector<LayerTelemetry>& layers) {
  double load = 0;
  for (const LayerTelemetry& t : layers)
    for (float share : t.expert_load) load = std::max(load, double(share) * double(t.expert_load.size()));
  return load;
}

Json StepReport::json() const {
  Json o = Json::make_object();
  o.set("step", step)
      .set("tokens", tokens)
      .set("epoch", epoch)
      .set("rows_crc32c", rows_crc)
      .set("loss", json_number(loss))
      .set("aux_loss", json_number(aux_loss));
  o.set("router_z", json_number(router_z))
      .set("head_z", json_number(head_z))
      .set("activation_loss", json_number(activation));
  o.set("grad_norm", json_number(gradient_norm)).set("lr", json_number(lr));
  if (held_out_nats) o.set("held_out_nats_per_token", json_number(*held_out_nats));
  if (held_out_bits_per_byte) o.set("held_out_bits_per_byte", json_number(*held_out_bits_per_byte));
  if (!layers.empty()) {
    if (double load = largest_load(layers); load > 0) o.set("max_expert_load", json_number(load));
    o.set("layers", layers_json(layers));
  }
  if (!bad.empty()) o.set("skipped", bad);
  Json timing = Json::make_object();
  timing.set("seconds", json_number(seconds))
      .set("tokens_per_s", json_number(tokens_per_s))
      .set("flops_per_s", json_number(flops_per_s));
  if (evaluation > 0) timing.set("evaluation_s", json_number(evaluation));
  timing.set("data_wait_s", json_number(data_wait))
      .set("reduce_wait_s", json_number(reduce_wait))
      .set("rss_bytes", rss);
  timing.set("activation_bytes", activation_bytes).set("scratch_bytes", scratch_bytes);
  if (device_bytes) timing.set("device_bytes", device_bytes);
  o.set("timing", std::move(timing));
  return o;
}

MetricsFile::MetricsFile(const std::string& path, int64_t keep_bytes)
    : path_(path), file_(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644)), bytes_(keep_bytes) {
  if (file_.get() < 0) throw Error(Exit::io, cat(path, ": cannot be opened for writing: ", system_reason()));
  const off_t size = lseek(file_.get(), 0, SEEK_END);
  if (size < keep_bytes)
    throw Error(Exit::checkpoint,
                cat(path, ": has ", int64_t(size), " bytes, the checkpoint was made with ", keep_bytes,
                    "; put the file back, or start another run with train.branch_from"));
  if (ftruncate(file_.get(), keep_bytes) != 0 || lseek(file_.get(), keep_bytes, SEEK_SET) < 0)
    throw Error(Exit::io, cat(path, ": cannot be cut back: ", system_reason()));
}

void MetricsFile::write(const Json& object) {
  const std::string line = object.line() + "\n";
  write_all(file_, path_, line.data(), line.size());
  bytes_ += int64_t(line.size());
}

int64_t MetricsFile::sync() const {
  if (fsync(file_.get()) != 0)
    throw Error(Exit::io, cat(path_, ": cannot be forced to the disk: ", system_reason()));
  return bytes_;
}

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace jambalaya
