// Weights out: Hugging Face's folder, or the same container with our own names and config.
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "train/config.h"
#include "train/interop/huggingface.h"
#include "train/interop/safetensors.h"
#include "train/interop/weights.h"
#include "train/json.h"

namespace jambalaya {
namespace {

namespace fs = std::filesystem;

std::string inside(const std::string& folder, const std::string& name) {
  return (fs::path(folder) / name).string();
}

std::vector<TensorSource> sources(WeightSource& weights, const ExportOptions& options) {
  const SafeType type = options.dtype == "bf16" ? SafeType::bf16 : SafeType::f32;
  std::vector<TensorSource> out;
  for (HfTensor& part : export_parts(weights.config(), options.format)) {
    std::string name = part.hf_name;
    std::vector<int64_t> shape = part.hf_shape;
    out.push_back({std::move(name), type, std::move(shape),
                   [&weights, part = std::move(part)](int64_t first, int64_t count, float* values) {
                     weights.read(part, first, count, values);
                   }});
  }
  return out;
}

std::string generation_config(const ModelConfig& config) {
  Json json = Json::make_object();
  json.set("_from_model_config", true);
  if (config.bos_token_id >= 0) json.set("bos_token_id", config.bos_token_id);
  if (config.eos_token_id >= 0) json.set("eos_token_id", config.eos_token_id);
  if (config.pad_token_id >= 0) json.set("pad_token_id", config.pad_token_id);
  return json.text() + "\n";
}

std::string native_config(const ModelConfig& config) {
  Json json = Json::make_object();
  json.set("format", "jambalaya-native");
  json.set("format_version", 1);
  json.set("model", model_to_yaml(config));
  return json.text() + "\n";
}

/// Writes everything into `folder`; returns the names in the order in which they may appear: the config last,
/// so that a folder without it is seen to be incomplete.
std::vector<std::string> write_files(const std::string& folder, WeightSource& weights,
                                     const ExportOptions& options) {
  const ModelConfig& config = weights.config();
  std::vector<std::pair<std::string, std::string>> texts;
  if (!options.tokenizer_json.empty()) {
    TokenizerFiles tokenizer = hf_tokenizer_files(options.tokenizer_json, config);
    texts.emplace_back("tokenizer.json", options.tokenizer_json);
    texts.emplace_back("tokenizer_config.json", std::move(tokenizer.config));
    texts.emplace_back("special_tokens_map.json", std::move(tokenizer.special_tokens_map));
  }
  if (options.format == ExportFormat::huggingface) {
    texts.emplace_back("generation_config.json", generation_config(config));
    texts.emplace_back("config.json",
                       model_config_to_hf(config, options.dtype == "bf16" ? "bfloat16" : "float32"));
  } else {
    texts.emplace_back("jambalaya.json", native_config(config));
  }
  std::vector<std::string> names =
      write_safetensors_folder(folder, sources(weights, options), options.max_shard_bytes);
  for (const auto& [name, text] : texts) {
    write_new_file(inside(folder, name), text);
    names.push_back(name);
  }
  return names;
}

/// Files of an export that may lie in the folder already.
bool is_model_file(const std::string& name) {
  static const char* const known[] = {
      "config.json",           "jambalaya.json",          "generation_config.json",      "tokenizer.json",
      "tokenizer_config.json", "special_tokens_map.json", "model.safetensors.index.json"};
  if (std::find(std::begin(known), std::end(known), name) != std::end(known)) return true;
  return name.starts_with("model") && name.ends_with(".safetensors");
}

std::vector<std::string> present_files(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error))
    if (is_model_file(entry.path().filename().string())) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

void export_weights(const std::string& folder, const Parameters& parameters, const ExportOptions& options,
                    bool overwrite) {
  ParameterWeights weights(parameters);
  export_weights(folder, weights, options, overwrite);
}

void export_weights(const std::string& folder, WeightSource& weights, const ExportOptions& options,
                    bool overwrite) {
  if (options.dtype != "f32" && options.dtype != "bf16")
    throw Error(Exit::usage, cat("dtype ", options.dtype, ": f32 or bf16 is expected"));
  if (options.max_shard_bytes < 1)
    throw Error(Exit::usage, cat("shards of ", options.max_shard_bytes, " bytes: at least 1 is needed"));
  if (options.format == ExportFormat::huggingface)
    model_config_to_hf(weights.config(), "float32");  // refuses before writing
  create_folders(folder);
  const std::vector<std::string> old = present_files(folder);
  if (!old.empty() && !overwrite)
    throw Error(Exit::usage, cat(folder, ": holds a model already (", old[0],
                                 "); choose another folder, or replace it with --overwrite"));
  const std::string temporary = inside(folder, cat(".export-", int64_t(::getpid())));
  std::error_code error;
  fs::remove_all(temporary, error);
  try {
    create_folders(temporary);
    const std::vector<std::string> names = write_files(temporary, weights, options);
    for (const std::string& name : old) fs::remove(inside(folder, name));
    for (const std::string& name : names) rename_path(inside(temporary, name), inside(folder, name));
    fs::remove_all(temporary);
    sync_path(folder);
  } catch (const fs::filesystem_error& e) {
    fs::remove_all(temporary, error);
    throw Error(Exit::io, cat(folder, ": ", e.what()));
  } catch (...) {
    fs::remove_all(temporary, error);
    throw;
  }
}

TokenizerFiles hf_tokenizer_files(const std::string& tokenizer_json, const ModelConfig& config) {
  const Json tokenizer = parse_json(tokenizer_json, "tokenizer.json");
  const JsonReader reader(tokenizer, "tokenizer.json", Exit::bad_input);
  Json decoder = Json::make_object();
  std::map<std::string, std::string> special;  // role -> text
  for (const Json& token : reader.at("added_tokens", Json::Kind::array).array) {
    const JsonReader t(token, "tokenizer.json: added_tokens", Exit::bad_input);
    const int64_t id = t.integer("id");
    const std::string& content = t.string("content");
    Json entry = Json::make_object();
    entry.set("content", content);
    for (const char* flag : {"lstrip", "normalized", "rstrip", "single_word", "special"})
      entry.set(flag, t.has(flag) && t.boolean(flag));
    decoder.set(cat(id), std::move(entry));
    if (id == config.bos_token_id) special["bos_token"] = content;
    if (id == config.eos_token_id) special["eos_token"] = content;
    if (id == config.pad_token_id) special["pad_token"] = content;
    if (content == "<|unk|>" || content == "<unk>") special["unk_token"] = content;
  }
  Json settings = Json::make_object(), roles = Json::make_object();
  settings.set("added_tokens_decoder", std::move(decoder));
  settings.set("clean_up_tokenization_spaces", false);
  settings.set("model_max_length", config.max_position_embeddings);
  settings.set("tokenizer_class", "PreTrainedTokenizerFast");
  for (const auto& [role, content] : special) {
    settings.set(role, content);
    roles.set(role, content);
  }
  return {settings.text() + "\n", roles.text() + "\n"};
}

}  // namespace jambalaya
