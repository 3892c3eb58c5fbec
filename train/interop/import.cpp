// Weights in: which part of the parameter table each tensor of the files fills, checked as a whole before any
// is read.
#include <algorithm>
#include <cmath>
#include <filesystem>

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

struct Piece {
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

Piece place(const TensorNames& names, const std::vector<ParameterRow>& table,
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
std::vector<Piece> plan(const Entries& entries, const ModelConfig& config,
                        const std::vector<ParameterRow>& table, bool native, const std::string& source) {
  const TensorNames names(config, table, native);
  std::vector<Piece> pieces;
  for (const auto& [name, entry] : entries) pieces.push_back(place(names, table, entry));
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
    return std::tie(a.row, a.range.first) < std::tie(b.row, b.range.first);
  });
  size_t next = 0;
  for (int row = 0; row < int(table.size()); row++) {
    int64_t filled = 0;
    for (; next < pieces.size() && pieces[next].row == row; next++) {
      const Piece& piece = pieces[next];
      if (piece.range.first < filled)
        throw Error(Exit::bad_input,
                    cat(source, ": tensors '", printable(pieces[next - 1].source.tensor->name), "' and '",
                        printable(piece.source.tensor->name), "' give the same weights twice"));
      if (piece.range.first > filled) break;
      filled += piece.range.count;
    }
    if (filled != table[size_t(row)].numel())
      throw Error(Exit::bad_input,
                  cat(source, ": tensor '", names.name_of_element(row, filled), "' is missing"));
  }
  return pieces;
}

/// The pieces of one row into `out`, which has room for the whole row.
void read_row(const std::vector<Piece>& pieces, int row, float* out) {
  const auto before = [](const Piece& piece, int r) { return piece.row < r; };
  for (auto piece = std::lower_bound(pieces.begin(), pieces.end(), row, before);
       piece != pieces.end() && piece->row == row; piece++) {
    float* values = out + piece->range.first;
    piece->source.file->read_f32(*piece->source.tensor, 0, piece->range.count, values);
    for (int64_t i = 0; i < piece->range.count; i++)
      if (!std::isfinite(values[i]))
        throw Error(Exit::bad_input,
                    cat(piece->source.file->path(), ": tensor '", printable(piece->source.tensor->name),
                        "': element ", i, " is ", std::isnan(values[i]) ? "NaN" : "infinite"));
  }
}

float* whole_master(const Parameters& parameters, int row) {
  const Tensor master = parameters.master(row);
  JAMBALAYA_CHECK(master.numel() == parameters.table()[size_t(row)].numel(), "import needs whole parameters");
  return master.ptr<float>();
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
  std::vector<Piece> pieces;  ///< by row, in the order of their elements
};

FolderWeights::FolderWeights(const std::string& folder, const ModelConfig& config)
    : table_(parameter_table(config)) {
  const bool native = is_native(folder);
  files_.reset(new Files{SafeTensorsFolder(folder), {}});
  files_->pieces = plan(files_->folder.entries(), config, table_, native, folder);
}
FolderWeights::~FolderWeights() = default;

void FolderWeights::read(int row, float* out) const { read_row(files_->pieces, row, out); }

void check_weights(const std::string& folder, const ModelConfig& config) { FolderWeights(folder, config); }

void import_weights(const std::string& folder, Parameters& parameters) {
  const FolderWeights weights(folder, parameters.config());
  for (int row = 0; row < int(parameters.table().size()); row++)
    weights.read(row, whole_master(parameters, row));
}

void import_weights_file(const std::string& path, Parameters& parameters) {
  const SafeTensorsFile file(path);
  Entries entries;
  for (const SafeTensor& tensor : file.tensors()) entries[tensor.name] = {&file, &tensor};
  const std::vector<Piece> pieces = plan(entries, parameters.config(), parameters.table(), false, path);
  for (int row = 0; row < int(parameters.table().size()); row++)
    read_row(pieces, row, whole_master(parameters, row));
}

}  // namespace jambalaya
