// Hugging Face's folder layout in and out: config.json, safetensors (single or sharded), tokenizer files.
#pragma once
#include <string>
#include <vector>

#include "model/config.h"
#include "model/parameters.h"

namespace jambalaya {

/// One tensor of a Hugging Face file as a part of ours: rows [begin, end) of table row `row`, or of its
/// expert `expert` when that is >= 0 (dimension 0 of the row is the expert then), under the name `hf_name`
/// and shape `hf_shape`.
struct HfTensor {
  std::string hf_name;
  std::vector<int64_t> hf_shape;
  int row = 0;                 ///< of the parameter table
  int64_t expert = -1;         ///< experts.{expert}.…
  int64_t begin = 0, end = 0;  ///< rows of the (expert's) matrix
};
/// Current per-expert names for a whole table, in Hugging Face's state-dict order.
std::vector<HfTensor> hf_tensors(const ModelConfig& config, const std::vector<ParameterRow>& table);
/// A name of the first public upload (".moe.", "pre_moe_layernorm", "B_layernorm", "experts.0" in dense
/// layers) under its current form; other names are returned as they are.
std::string current_hf_name(const std::string& name, const std::vector<LayerKind>& kinds);
/// Elements [first, first + count) of the row's data that `tensor` covers.
struct ElementRange {
  int64_t first = 0, count = 0;
};
ElementRange elements_of(const HfTensor& tensor, const ParameterRow& row);

/// What Hugging Face's Jamba cannot express in this config, each knob named; empty: exportable.
std::vector<std::string> not_expressible_in_hf(const ModelConfig& config);

/// Reads config.json: keys that are absent take the defaults of Hugging Face's JambaConfig, unknown ones are
/// ignored, those that would change the numbers and cannot be followed are refused. Error(bad_input) names
/// source and key.
ModelConfig model_config_from_hf(const std::string& config_json, const std::string& source_name);
/// config.json; `torch_dtype` is "float32" or "bfloat16". The config must be expressible: Error(usage)
/// otherwise.
std::string model_config_to_hf(const ModelConfig& config, const std::string& torch_dtype);

/// The model of a folder: config.json, or jambalaya.json of a native export. Error(bad_input).
ModelConfig read_model_config(const std::string& folder);
/// Whether a folder's tensors are exactly those of the model, by name and shape, without reading them: before
/// memory is taken for the sizes that a config.json claims. Error(bad_input) names the tensor.
void check_weights(const std::string& folder, const ModelConfig& config);
/// Loads a folder's weights (current, legacy and fused namings, or native; f32, bf16, f16, f64) into
/// `parameters` (masters), strictly: nothing missing, nothing left over, nothing given twice, every value
/// finite. Error(bad_input) names the tensor. Under any layout: each rank keeps what it owns.
void import_weights(const std::string& folder, Parameters& parameters);
/// The same from one file, e.g. gradients under the same names.
void import_weights_file(const std::string& path, Parameters& parameters);

enum class ExportFormat { huggingface, native };
struct ExportOptions {
  ExportFormat format = ExportFormat::huggingface;
  std::string dtype = "f32";  ///< f32 or bf16
  int64_t max_shard_bytes = int64_t(5) * 1000 * 1000 * 1000;
  std::string tokenizer_json;  ///< text; empty: none written
};
/// Writes the folder (created; refuses one that holds a model already unless `overwrite`). The files are
/// written and forced to the disk beside their places and moved there at the end: a full disk leaves what was
/// there.
void export_weights(const std::string& folder, const Parameters& parameters, const ExportOptions& options,
                    bool overwrite);

/// tokenizer_config.json and special_tokens_map.json for a tokenizer.json.
struct TokenizerFiles {
  std::string config, special_tokens_map;
};
TokenizerFiles hf_tokenizer_files(const std::string& tokenizer_json, const ModelConfig& config);

}  // namespace jambalaya
