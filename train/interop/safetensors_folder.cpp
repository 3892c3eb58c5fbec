// A folder's weights: one file, or shards and their index.
#include <cstdio>
#include <filesystem>

#include "train/interop/safetensors.h"
#include "train/json.h"

namespace jambalaya {
namespace {

namespace fs = std::filesystem;
constexpr const char* single_name = "model.safetensors";
constexpr const char* index_name = "model.safetensors.index.json";
constexpr int64_t index_limit = 200'000'000;

std::string inside(const std::string& folder, const std::string& name) {
  return (fs::path(folder) / name).string();
}

/// A shard must be a plain name of a regular file in the folder itself: an index from outside must not reach
/// elsewhere.
void check_shard(const std::string& folder, const std::string& index_path, const std::string& name) {
  const auto refuse = [&](const std::string& rule) {
    throw Error(Exit::bad_input, cat(index_path, ": shard '", printable(name), "': ", rule));
  };
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos)
    refuse("must be a plain file name, without folders");
  std::error_code error;
  const std::string path = inside(folder, name);
  if (!fs::exists(path, error)) refuse("is missing from the folder");
  if (!fs::is_regular_file(path, error)) refuse("is not a regular file");
  const fs::path real = fs::canonical(path, error), home = fs::canonical(folder, error);
  if (error || real.parent_path() != home)
    refuse("is a link to a file outside of the folder; copy the folder with its links resolved (cp -rL)");
}

}  // namespace

bool holds_safetensors(const std::string& folder) {
  std::error_code error;
  return fs::exists(inside(folder, single_name), error) || fs::exists(inside(folder, index_name), error);
}

SafeTensorsFolder::SafeTensorsFolder(const std::string& folder) {
  const std::string single = inside(folder, single_name), index = inside(folder, index_name);
  std::error_code error;
  const bool has_single = fs::exists(single, error), has_index = fs::exists(index, error);
  if (!has_single && !has_index)
    throw Error(Exit::bad_input, cat(folder, ": holds neither ", single_name, " nor ", index_name));
  if (has_single && has_index)
    throw Error(Exit::bad_input, cat(folder, ": holds both ", single_name, " and ", index_name,
                                     "; remove the one that is stale"));
  if (has_index) {
    add_shards(folder, index);
    return;
  }
  files_.emplace_back(single);
  for (const SafeTensor& tensor : files_[0].tensors()) entries_[tensor.name] = {&files_[0], &tensor};
}

void SafeTensorsFolder::add_shards(const std::string& folder, const std::string& index_path) {
  const Json index = parse_json(read_small_file(index_path, index_limit), index_path);
  const JsonReader top(index, index_path, Exit::bad_input);
  const Json& weight_map = top.at("weight_map", Json::Kind::object);
  std::map<std::string, std::vector<std::string>> tensors_of;  // shard -> names
  std::map<std::string_view, std::string_view> shard_of;
  for (const auto& [name, shard] : weight_map.object) {
    if (!shard.is(Json::Kind::string))
      throw Error(Exit::bad_input,
                  cat(index_path, ": weight_map: '", printable(name), "': a file name is expected"));
    tensors_of[shard.string].push_back(name);
    shard_of[name] = shard.string;
  }
  for (const auto& [shard, names] : tensors_of) check_shard(folder, index_path, shard);
  files_.reserve(tensors_of.size());  // entries point into it
  int64_t total = 0;
  for (const auto& [shard, names] : tensors_of) {
    const SafeTensorsFile& file = files_.emplace_back(inside(folder, shard));
    for (const std::string& name : names)
      if (!file.find(name))
        throw Error(Exit::bad_input, cat(index_path, ": tensor '", printable(name), "' is not in shard ",
                                         shard, " as weight_map says"));
    for (const SafeTensor& tensor : file.tensors()) {
      const auto listed = shard_of.find(tensor.name);
      if (listed == shard_of.end() || listed->second != shard)
        throw Error(Exit::bad_input, cat(file.path(), ": tensor '", printable(tensor.name),
                                         "' is not listed for this shard in ", index_name));
      entries_[tensor.name] = {&file, &tensor};
      total += tensor.end - tensor.begin;
    }
  }
  const Json* metadata = index.find("metadata");
  const Json* stated = metadata ? metadata->find("total_size") : nullptr;
  if (stated && (!stated->is(Json::Kind::integer) || stated->integer != total))
    throw Error(Exit::bad_input, cat(index_path, ": metadata: total_size: ", stated->text(),
                                     ", but the shards hold ", total, " bytes"));
}

std::vector<std::string> write_safetensors_folder(const std::string& folder,
                                                  const std::vector<TensorSource>& tensors,
                                                  int64_t max_shard_bytes) {
  std::vector<std::vector<TensorSource>> shards(1);
  int64_t filled = 0, total = 0;
  for (const TensorSource& tensor : tensors) {
    if (filled + tensor.bytes() > max_shard_bytes && !shards.back().empty()) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(tensor);
    filled += tensor.bytes();
    total += tensor.bytes();
  }
  if (shards.size() == 1) {
    write_safetensors(inside(folder, single_name), shards[0]);
    return {single_name};
  }
  std::vector<std::string> files;
  std::map<std::string, std::string> shard_of;
  for (size_t i = 0; i < shards.size(); i++) {
    char name[64];
    std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
    write_safetensors(inside(folder, name), shards[i]);
    files.emplace_back(name);
    for (const TensorSource& tensor : shards[i]) shard_of[tensor.name] = name;
  }
  Json index = Json::make_object(), metadata = Json::make_object();
  metadata.set("total_size", total);
  index.set("metadata", std::move(metadata));
  Json weight_map = Json::make_object();
  for (const auto& [name, file] : shard_of) weight_map.object.emplace_back(name, file);
  index.set("weight_map", std::move(weight_map));
  write_new_file(inside(folder, index_name), index.text() + "\n");
  files.emplace_back(index_name);
  return files;
}

}  // namespace jambalaya
