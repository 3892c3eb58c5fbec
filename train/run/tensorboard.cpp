#include "train/run/tensorboard.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "data/crc32c.h"
#include "parallel/hosts.h"

namespace jambalaya {

namespace {

// ---- protocol buffers: a field is its number and wire type, then its value ----

void put_little(std::string& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; i++) out += char((value >> (8 * i)) & 0xFF);
}
void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += char((value & 0x7F) | 0x80);
  out += char(value);
}
enum Wire : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
void put_key(std::string& out, int field, Wire wire) { put_varint(out, (uint64_t(field) << 3) | wire); }

void put_double(std::string& out, int field, double value) {
  put_key(out, field, kFixed64);
  put_little(out, std::bit_cast<uint64_t>(value), 8);
}
void put_float(std::string& out, int field, float value) {
  put_key(out, field, kFixed32);
  put_little(out, std::bit_cast<uint32_t>(value), 4);
}
void put_integer(std::string& out, int field, int64_t value) {
  put_key(out, field, kVarint);
  put_varint(out, uint64_t(value));
}
void put_bytes(std::string& out, int field, const std::string& value) {
  put_key(out, field, kBytes);
  put_varint(out, value.size());
  out += value;
}

// Event { wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7 }
std::string event_at(int64_t step) {
  std::string event;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  put_double(event, 1, std::chrono::duration<double>(now).count());
  if (step) put_integer(event, 2, step);
  return event;
}

// Summary { repeated Value value = 1 }, Value { tag = 1, simple_value = 2 }
std::string summary_of(const std::vector<Scalar>& scalars) {
  std::string summary;
  for (const auto& [tag, value] : scalars) {
    std::string one;
    put_bytes(one, 1, tag);
    put_float(one, 2, value);
    put_bytes(summary, 1, one);
  }
  return summary;
}

/// As stored: a CRC of data that itself holds CRCs would be weak.
uint32_t masked_crc(const std::string& bytes) {
  const uint32_t crc = crc32c(bytes.data(), bytes.size());
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

/// Seconds since 1970, later than in the name of any event file of the folder: the order of names is the
/// order of reading, and two starts may fall into one second.
int64_t next_time(const std::string& folder) {
  using namespace std::chrono;
  int64_t time = duration_cast<seconds>(system_clock::now().time_since_epoch()).count();
  const std::string start = "events.out.tfevents.";
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (const std::string name = entry.path().filename().string(); name.starts_with(start))
      time = std::max<int64_t>(time, std::atoll(name.c_str() + start.size()) + 1);
  return time;
}

std::string layer_tag(const char* group, size_t layer, const char* what) {
  return cat(group, "/layer_", layer < 10 ? "0" : "", layer, "/", what);
}

void add_layers(std::vector<Scalar>& all, const std::vector<LayerTelemetry>& layers) {
  for (size_t i = 0; i < layers.size(); i++) {
    const LayerTelemetry& t = layers[i];
    all.emplace_back(layer_tag("activation", i, "mixer_max"), float(t.mixer_max));
    all.emplace_back(layer_tag("activation", i, "channel_max"), float(t.channel_max));
    if (t.delta_max > 0) {
      all.emplace_back(layer_tag("mamba", i, "delta_min"), t.delta_min);
      all.emplace_back(layer_tag("mamba", i, "delta_max"), t.delta_max);
    }
    if (!t.expert_load.empty()) all.emplace_back(layer_tag("moe", i, "load_max"), float(largest_load({t})));
  }
}

}  // namespace

std::vector<Scalar> scalars_of(const StepReport& r) {
  std::vector<Scalar> all = {{"train/loss", float(r.loss)},
                             {"train/tokens", float(r.tokens)},
                             {"optim/lr", float(r.lr)},
                             {"optim/grad_norm", float(r.gradient_norm)},
                             {"optim/step_skipped", r.bad.empty() ? 0.0f : 1.0f},
                             {"perf/tokens_per_s", float(r.tokens_per_s)},
                             {"perf/tokens_per_s_per_rank", float(r.tokens_per_s / r.ranks)},
                             {"perf/flops_per_s", float(r.flops_per_s)},
                             {"perf/step_s", float(r.seconds)},
                             {"perf/data_wait_pct", float(100 * r.data_wait / r.seconds)},
                             {"perf/reduce_wait_pct", float(100 * r.reduce_wait / r.seconds)},
                             {"mem/rss_gib", float(double(r.rss) / 0x1p30)}};
  if (r.device_bytes) all.emplace_back("mem/device_peak_gib", float(double(r.device_bytes) / 0x1p30));
  if (r.held_out_nats) all.emplace_back("val/loss", float(*r.held_out_nats));
  if (r.held_out_bits_per_byte) all.emplace_back("val/bpb", float(*r.held_out_bits_per_byte));
  if (r.aux_loss != 0) all.emplace_back("moe/aux_loss", float(r.aux_loss));
  if (r.router_z != 0) all.emplace_back("moe/router_z", float(r.router_z));
  if (r.activation != 0) all.emplace_back("train/activation_loss", float(r.activation));
  if (const double load = largest_load(r.layers); load > 0) all.emplace_back("moe/load_max", float(load));
  add_layers(all, r.layers);
  return all;
}

EventFile::EventFile(const std::string& folder, int64_t first_step) {
  create_folders(folder);
  path_ = cat(folder, "/events.out.tfevents.", next_time(folder), ".", host_name(), ".", getpid(), ".0");
  file_ = create_file(path_);
  std::string version = event_at(0);
  put_bytes(version, 3, "brain.Event:2");
  append(version);
  // SessionLog { status = 1: START = 1 }. Readers drop what they have of this step and of later ones.
  std::string session, start = event_at(first_step);
  put_integer(session, 1, 1);
  put_bytes(start, 7, session);
  append(start);
}

void EventFile::write(int64_t step, const std::vector<Scalar>& scalars) {
  std::string event = event_at(step);
  put_bytes(event, 5, summary_of(scalars));
  append(event);
}

/// In one piece, so that a reader beside the run seldom sees half a record (it waits for the rest if it
/// does).
void EventFile::append(const std::string& event) {
  std::string length;
  put_little(length, event.size(), 8);
  std::string record = length;
  put_little(record, masked_crc(length), 4);
  record += event;
  put_little(record, masked_crc(event), 4);
  write_all(file_, path_, record.data(), record.size());
}

}  // namespace jambalaya
