// From the name of a tensor in a file to the part of the parameter table that it fills.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "train/interop/huggingface.h"

namespace jambalaya {

/// Knows the current per-expert, the fused and the legacy names of a model (or, native, our own). Nothing is
/// listed per expert: the number of experts may come from a hostile config.json.
class TensorNames {
 public:
  /// `table` must outlive this.
  TensorNames(const ModelConfig& config, const std::vector<ParameterRow>& table, bool native);
  /// The part that a file's tensor fills and the shape that it must have there; none when the model has no
  /// such tensor.
  std::optional<HfTensor> locate(const std::string& file_name) const;
  /// The (current, per-expert) name of the tensor that holds an element of a row: to name what is missing.
  std::string name_of_element(int row, int64_t element) const;

 private:
  struct ExpertRows {
    int gate_up = 0, down = 0;
  };
  std::vector<LayerKind> kinds_;
  const std::vector<ParameterRow>& table_;
  bool native_;
  std::unordered_map<std::string, HfTensor> whole_;
  std::map<std::string, ExpertRows> experts_;
};

}  // namespace jambalaya
