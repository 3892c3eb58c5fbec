// Hugging Face's folder layout in and out: config.json, safetensors (single or sharded), tokenizer files.
#pragma once
#include <string>
#include <vector>

#include "model/config.h"
#include "model/parameters.h"

namespace jambalaya {

/// One of our tensors as it stands in a Hugging Face file: `hf_name` holds rows [begin, end) of dimension `dim` of
/// ours (entry `expert` of dimension 0 first, when >= 0), under the shape `hf_shape`.
struct HfTensor {
  std::string hf_name;
  std::vector<int64_t> hf_shape;
  int row = 0;           ///< of the parameter table
  int64_t expert = -1;   ///< experts.{expert}.…
  int64_t begin = 0, end = 0;  ///< rows of the (expert's) matrix
};
/// Current per-expert names for a whole table, in Hugging Face's state-dict order.
std::vector<HfTensor> hf_tensors(const ModelConfig& config, const std::vector<ParameterRow>& table);

/// What Hugging Face's Jamba cannot express in this config, each knob named; empty: exportable.
std::vector<std::string> not_expressible_in_hf(const ModelConfig& config);

ModelConfig model_config_from_hf(const std::string& config_json, const std::string& source_name);
std::string model_config_to_hf(const ModelConfig& config, const std::string& torch_dtype);

/// Loads a folder's weights (current, legacy and fused namings; f32, bf16, f16) into `parameters` (masters), strictly:
/// nothing missing, nothing left over. Error(bad_input) names the tensor.
void import_weights(const std::string& folder, Parameters& parameters);

enum class ExportFormat { huggingface, native };
struct ExportOptions {
  ExportFormat format = ExportFormat::huggingface;
  std::string dtype = "f32";                         ///< f32 or bf16
  int64_t max_shard_bytes = int64_t(5) * 1000 * 1000 * 1000;
  std::string tokenizer_json;                        ///< text; empty: none written
};
/// Writes the folder (created; refuses one that holds a model already unless `overwrite`).
void export_weights(const std::string& folder, const Parameters& parameters, const ExportOptions& options, bool overwrite);

}  // namespace jambalaya
