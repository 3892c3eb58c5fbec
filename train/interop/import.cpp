// Weights in: which part of the parameter table each tensor of the files fills, checked as a whole before any
// is read.
#include <algorithm>
#include <cmath>
#include <filesystem>

#include "kernels/transfer.h"
#include "train/config.h"
#include "train/interop/huggingface.h"
#include "train/interop/names.h"
#include "train/interop/safetensors.h"
#include "train/interop/weights.h"
#include "train/json.h"

namespace jambalaya {
namespace {

namespace fs = std::filesystem;
using Entries = std::map<std::string, SafeTensorsFolder::Entry>;
constexpr int64_t config_limit = 16'000'000;

struct FilePart {
  SafeTensorsFolder::Entry source;
  int row;
  ElementRange range;
};

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); i++) text += cat(i ? ", " : "", shape[i]);
  return text + "]";
}

bool is_floating(SafeType type) {
  return type == SafeType::f32 || type == SafeType::bf16 || type == SafeType::f16 || type == SafeType::f64;
}

FilePart place(const TensorNames& names, const std::vector<ParameterRow>& table,
               const SafeTensorsFolder::Entry& entry) {
  const SafeTensor& tensor = *entry.tensor;
  const auto refuse = [&](const std::string& rule) {
    throw Error(Exit::bad_input, cat(entry.file->path(), ": tensor '", printable(tensor.name), "': ", rule));
  };
  const auto target = names.locate(tensor.name);
  if (!target)
    refuse(tensor.name == "lm_head.weight"
               ? "unexpected: the config ties the head to the embedding"
               : "unexpected: the model that the config describes has no such tensor");
  if (tensor.shape != target->hf_shape)
    refuse(
        cat("shape ", shape_text(tensor.shape), ", but the config asks for ", shape_text(target->hf_shape)));
  if (!is_floating(tensor.type))
    refuse(cat(name_of(tensor.type), " weights; F32, BF16, F16 or F64 are expected"));
  return {entry, target->row, elements_of(*target, table[size_t(target->row)])};
}

/// Every element of the table from exactly one tensor.
std::vector<FilePart> plan(const Entries& entries, const ModelConfig& config,
                           const std::vector<ParameterRow>& table, bool native, const std::string& source) {
  const TensorNames names(config, table, native);
  std::vector<FilePart> parts;
  for (const auto& [name, entry] : entries) parts.push_back(place(names, table, entry));
  std::sort(parts.begin(), parts.end(), [](const FilePart& a, const FilePart& b) {
    return std::tie(a.row, a.range.first) < std::tie(b.row, b.range.first);
  });
  size_t next = 0;
  for (int row = 0; row < int(table.size()); row++) {
    int64_t filled = 0;
    for (; next < parts.size() && parts[next].row == row; next++) {
      const FilePart& piece = parts[next];
      if (piece.range.first < filled)
        throw Error(Exit::bad_input,
                    cat(source, ": tensors '", printable(parts[next - 1].source.tensor->name), "' and '",
                        printable(piece.source.tensor->name), "' give the same weights twice"));
      if (piece.range.first > filled) break;
      filled += piece.range.count;
    }
    if (filled != table[size_t(row)].numel())
      throw Error(Exit::bad_input,
                  cat(source, ": tensor '", names.name_of_element(row, filled), "' is missing"));
  }
  return parts;
}

/// What this rank owns of a row: stretches of the global tensor and, as `local`, of the owned masters.
std::vector<Stretch> owned_stretches(const Parameters& parameters, int row) {
  const ParameterRow& r = parameters.table()[size_t(row)];
  std::vector<Stretch> out;
  for (const OwnedSlice& slice : parameters.owned()) {
    if (slice.row != row) continue;
    for (const Rectangle& piece : pieces(r, parameters.ranks(), slice.begin, slice.end))
      for (const Stretch& s : stretches(r, piece))
        out.push_back({s.global, slice.at + s.local - slice.begin, s.count});
  }
  return out;
}

/// Reads elements [first, first + count) of a file's tensor, all of which must be finite.
void read_finite(const FilePart& part, int64_t first, int64_t count, float* out) {
  part.source.file->read_f32(*part.source.tensor, first, count, out);
  for (int64_t i = 0; i < count; i++)
    if (!std::isfinite(out[i]))
      throw Error(Exit::bad_input,
                  cat(part.source.file->path(), ": tensor '", printable(part.source.tensor->name),
                      "': element ", first + i, " is ", std::isnan(out[i]) ? "NaN" : "infinite"));
}

/// values -> masters[first, first + count).
void put(const float* values, int64_t first, int64_t count, Parameters& parameters) {
  copy(transfer_context(parameters.accelerator()), make_tensor(const_cast<float*>(values), {count}),
       parameters.owned_master().slice_rows(first, first + count));
}

void read_part(const FilePart& part, const std::vector<Stretch>& owned, Parameters& parameters) {
  std::vector<Stretch> wanted;  // `global` counts from the tensor's first element
  for (const Stretch& s : owned) {
    const int64_t begin = std::max(s.global, part.range.first),
                  end = std::min(s.global + s.count, part.range.first + part.range.count);
    if (begin < end) wanted.push_back({begin - part.range.first, s.local + begin - s.global, end - begin});
  }
  if (wanted.empty()) return;
  if (wanted.size() == 1 && !parameters.accelerator())
    return read_finite(part, wanted[0].global, wanted[0].count,
                       parameters.owned_master().ptr<float>() + wanted[0].local);
  const int64_t first = wanted.front().global, last = wanted.back().global + wanted.back().count;
  std::vector<float> values(size_t(last - first));  // stretches ascend
  read_finite(part, first, last - first, values.data());
  for (const Stretch& s : wanted) put(values.data() + s.global - first, s.local, s.count, parameters);
}

/// One tensor of the files at a time; each rank keeps what it owns.
void read_parts(const std::vector<FilePart>& parts, Parameters& parameters) {
  int row = -1;
  std::vector<Stretch> owned;
  for (const FilePart& part : parts) {
    if (part.row != row) owned = owned_stretches(parameters, row = part.row);
    read_part(part, owned, parameters);
  }
}

bool is_native(const std::string& folder) {
  std::error_code error;
  const bool native = fs::exists(fs::path(folder) / "jambalaya.json", error);
  if (native && fs::exists(fs::path(folder) / "config.json", error))
    throw Error(Exit::bad_input,
                cat(folder, ": holds both config.json and jambalaya.json; remove the one that is stale"));
  return native;
}

}  // namespace

ModelConfig read_model_config(const std::string& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) throw Error(Exit::bad_input, cat(folder, ": not a folder"));
  if (!is_native(folder)) {
    const std::string path = (fs::path(folder) / "config.json").string();
    return model_config_from_hf(read_small_file(path, config_limit), path);
  }
  const std::string path = (fs::path(folder) / "jambalaya.json").string();
  const Json json = parse_json(read_small_file(path, config_limit), path);
  const JsonReader reader(json, path, Exit::bad_input);
  if (reader.string("format") != "jambalaya-native") reader.fail("format", "jambalaya-native is expected");
  if (reader.integer("format_version") != 1) reader.fail("format_version", "this version reads format 1");
  try {
    return parse_model_config(reader.string("model"), cat(path, ": model"));
  } catch (const Error& e) {
    throw Error(Exit::bad_input, e.what());
  }
}

struct FolderWeights::Files {
  SafeTensorsFolder folder;
  std::vector<FilePart> parts;  ///< by row, in the order of their elements
};

FolderWeights::FolderWeights(const std::string& folder, const ModelConfig& config)
    : table_(parameter_table(config)) {
  const bool native = is_native(folder);
  files_.reset(new Files{SafeTensorsFolder(folder), {}});
  files_->parts = plan(files_->folder.entries(), config, table_, native, folder);
}
FolderWeights::~FolderWeights() = default;

void FolderWeights::read(int row, float* out) const {
  const auto before = [](const FilePart& part, int r) { return part.row < r; };
  for (auto part = std::lower_bound(files_->parts.begin(), files_->parts.end(), row, before);
       part != files_->parts.end() && part->row == row; part++)
    read_finite(*part, 0, part->range.count, out + part->range.first);
}

void check_weights(const std::string& folder, const ModelConfig& config) { FolderWeights(folder, config); }

void import_weights(const std::string& folder, Parameters& parameters) {
  const bool native = is_native(folder);
  const SafeTensorsFolder files(folder);
  read_parts(plan(files.entries(), parameters.config(), parameters.table(), native, folder), parameters);
}

void import_weights_file(const std::string& path, Parameters& parameters) {
  const SafeTensorsFile file(path);
  Entries entries;
  for (const SafeTensor& tensor : file.tensors()) entries[tensor.name] = {&file, &tensor};
  read_parts(plan(entries, parameters.config(), parameters.table(), false, path), parameters);
}

}  // namespace jambalaya
