#include "train/checkpoint/manifest.h"

#include "train/config.h"
#include "train/files.h"
#include "train/json.h"

namespace jambalaya {
namespace {

constexpr std::string_view hash_start = "{\n  \"self_hash\": \"";
constexpr size_t hash_digits = 32;

Json state_json(const TrainState& state) {
  Json json = Json::make_object();
  json.set("step", state.step);
  json.set("tokens", state.tokens);
  json.set("optimizer_steps", state.optimizer_steps);
  json.set("loader", state.loader);
  Json losses = Json::make_array();
  for (double loss : state.loss_window) losses.array.push_back(json_number(loss));
  json.set("loss_window", std::move(losses));
  json.set("metrics_bytes", state.metrics_bytes);
  json.set("seconds", json_number(state.seconds));
  json.set("rows_per_step", state.rows_per_step);
  json.set("accumulation_steps", state.accumulation_steps);
  json.set("layout", state.layout);
  return json;
}

TrainState read_state(const JsonReader& json) {
  TrainState state;
  state.step = json.integer("step");
  state.tokens = json.integer("tokens");
  state.optimizer_steps = json.integer("optimizer_steps");
  state.loader = json.string("loader");
  for (double loss : json.numbers("loss_window")) state.loss_window.push_back(loss);
  state.metrics_bytes = json.integer("metrics_bytes");
  state.seconds = json.number("seconds");
  // Checkpoints of the first version do not have these.
  if (json.has("rows_per_step")) state.rows_per_step = json.integer("rows_per_step");
  if (json.has("accumulation_steps")) state.accumulation_steps = json.integer("accumulation_steps");
  if (json.has("layout")) state.layout = json.string("layout");
  return state;
}

Json box_json(const CheckpointInfo::StoredBox& box) {
  Json json = Json::make_object();
  json.set("file", box.file);
  json.set("dataset", box.dataset);
  json.set("offset", box.offset);
  json.set("shape", box.shape);
  json.set("hash", box.hash);
  return json;
}

CheckpointInfo::StoredBox read_box(const JsonReader& json) {
  CheckpointInfo::StoredBox box;
  box.file = int(json.integer("file"));
  box.dataset = json.string("dataset");
  box.offset = json.integers("offset");
  box.shape = json.integers("shape");
  box.hash = json.string("hash");
  return box;
}

Json file_json(const CheckpointInfo::StoredFile& file) {
  Json json = Json::make_object();
  json.set("name", file.name);
  json.set("bytes", file.bytes);
  json.set("xxh3_128", file.hash);
  return json;
}

CheckpointInfo::StoredFile read_file(const JsonReader& json) {
  CheckpointInfo::StoredFile file{json.string("name"), json.integer("bytes"), json.string("xxh3_128")};
  if (file.name.find('/') != std::string::npos || file.name.starts_with('.'))
    json.fail("name", "a plain file name is expected");
  return file;
}

CheckpointInfo::Stored read_tensor(const JsonReader& json, size_t files, const std::string& source) {
  CheckpointInfo::Stored tensor{json.string("name"), json.integers("shape"), {}};
  for (const Json& box : json.at("boxes", Json::Kind::array).array) {
    tensor.boxes.push_back(read_box(JsonReader(box, cat(source, ": ", tensor.name), Exit::checkpoint)));
    if (tensor.boxes.back().file < 0 || size_t(tensor.boxes.back().file) >= files)
      json.fail("boxes", "no such file");
  }
  if (std::string problem = tiling_problem(tensor); !problem.empty())
    throw Error(Exit::checkpoint, cat(source, ": tensor ", tensor.name, ": ", problem));
  return tensor;
}

/// The text with zeros in place of its hash, and the hash that it states.
std::string take_hash(std::string text, const std::string& source, std::string& stated) {
  if (!text.starts_with(hash_start) || text.size() < hash_start.size() + hash_digits)
    throw Error(Exit::checkpoint, cat(source, ": not a checkpoint's manifest, or cut off"));
  stated = text.substr(hash_start.size(), hash_digits);
  return text.replace(hash_start.size(), hash_digits, hash_digits, '0');
}

}  // namespace

std::string report_text(const RankReport& report) {
  Json json = Json::make_object();
  json.set("error", report.error);
  json.set("exit", int64_t(report.exit));
  json.set("file", file_json(report.file));
  Json entries = Json::make_array();
  for (const RankReport::Entry& entry : report.entries) {
    Json e = Json::make_object();
    e.set("name", entry.name);
    e.set("shape", entry.global_shape);
    e.set("box", box_json(entry.box));
    entries.array.push_back(std::move(e));
  }
  json.set("entries", std::move(entries));
  return json.text();
}

RankReport parse_report(const std::string& text) {
  const Json json = parse_json(text, "a rank's report", Exit::failed);
  const JsonReader reader(json, "a rank's report", Exit::failed);
  RankReport report;
  report.error = reader.string("error");
  report.exit = Exit(reader.integer("exit"));
  report.file = read_file(reader.child("file"));
  for (const Json& entry : reader.at("entries", Json::Kind::array).array) {
    const JsonReader e(entry, "a rank's report", Exit::failed);
    report.entries.push_back({e.string("name"), e.integers("shape"), read_box(e.child("box"))});
  }
  return report;
}

std::string manifest_text(const CheckpointInfo& info) {
  Json json = Json::make_object();
  json.set("self_hash", std::string(hash_digits, '0'));
  json.set("format", "jambalaya-checkpoint");
  json.set("format_version", manifest_version);
  json.set("world_size", info.world_size);
  json.set("weights_only", info.weights_only);
  json.set("state", state_json(info.state));
  json.set("model", model_to_yaml(info.model));
  Json files = Json::make_array(), tensors = Json::make_array();
  for (const auto& file : info.files) files.array.push_back(file_json(file));
  for (const auto& tensor : info.tensors) {
    Json t = Json::make_object(), boxes = Json::make_array();
    for (const auto& box : tensor.boxes) boxes.array.push_back(box_json(box));
    t.set("name", tensor.name);
    t.set("shape", tensor.global_shape);
    t.set("boxes", std::move(boxes));
    tensors.array.push_back(std::move(t));
  }
  json.set("files", std::move(files));
  json.set("tensors", std::move(tensors));
  std::string text = json.text() + "\n";
  return text.replace(hash_start.size(), hash_digits, xxh3_of_bytes(text.data(), text.size()));
}

CheckpointInfo parse_checkpoint_manifest(const std::string& text, const std::string& source) {
  std::string stated;
  const std::string blank = take_hash(text, source, stated);
  if (xxh3_of_bytes(blank.data(), blank.size()) != stated)
    throw Error(Exit::checkpoint, cat(source, ": its hash does not match its content"));
  const Json json = parse_json(text, source, Exit::checkpoint);
  const JsonReader reader(json, source, Exit::checkpoint);
  if (reader.string("format") != "jambalaya-checkpoint") reader.fail("format", "not a checkpoint");
  if (reader.integer("format_version") != manifest_version)
    reader.fail("format_version", cat(reader.integer("format_version"),
                                      " was written by another version; this one reads ", manifest_version));
  CheckpointInfo info;
  info.world_size = reader.integer("world_size");
  info.weights_only = reader.boolean("weights_only");
  info.state = read_state(reader.child("state"));
  try {
    info.model = parse_model_config(reader.string("model"), cat(source, ": model"));
  } catch (const Error& e) {
    throw Error(Exit::checkpoint, e.what());
  }
  for (const Json& file : reader.at("files", Json::Kind::array).array)
    info.files.push_back(read_file(JsonReader(file, cat(source, ": files"), Exit::checkpoint)));
  for (const Json& tensor : reader.at("tensors", Json::Kind::array).array)
    info.tensors.push_back(read_tensor(JsonReader(tensor, cat(source, ": tensors"), Exit::checkpoint),
                                       info.files.size(), source));
  return info;
}

std::string tiling_problem(const CheckpointInfo::Stored& tensor) {
  const size_t rank = tensor.global_shape.size();
  int64_t total = 1, covered = 0;
  for (int64_t n : tensor.global_shape)
    if (n < 1 || __builtin_mul_overflow(total, n, &total)) return "impossible shape";
  for (const auto& box : tensor.boxes) {
    if (box.offset.size() != rank || box.shape.size() != rank) return "a box of another number of dimensions";
    int64_t volume = 1;
    for (size_t d = 0; d < rank; d++) {
      if (box.offset[d] < 0 || box.shape[d] < 1 || box.offset[d] > tensor.global_shape[d] - box.shape[d])
        return "a box outside of the tensor";
      volume *= box.shape[d];
    }
    covered += volume;
  }
  for (size_t a = 0; a < tensor.boxes.size(); a++)
    for (size_t b = 0; b < a; b++) {
      bool overlap = true;
      for (size_t d = 0; d < rank && overlap; d++) {
        const auto &x = tensor.boxes[a], &y = tensor.boxes[b];
        overlap = x.offset[d] < y.offset[d] + y.shape[d] && y.offset[d] < x.offset[d] + x.shape[d];
      }
      if (overlap) return "elements that are in two boxes";
    }
  if (covered != total) return cat("its boxes hold ", covered, " of ", total, " elements");
  return "";
}

}  // namespace jambalaya
