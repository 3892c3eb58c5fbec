// How our tensors are named in Hugging Face files. Ours are whole (gate and up rows together, experts
// together); theirs are single matrices under "model.".
#include <algorithm>
#include <cstdlib>

#include "train/interop/huggingface.h"
#include "train/interop/names.h"

namespace jambalaya {
namespace {

constexpr std::string_view gate_up_dense = "feed_forward.gate_up_proj.weight";
constexpr std::string_view gate_up_experts = "feed_forward.experts.gate_up_proj";
constexpr std::string_view down_experts = "feed_forward.experts.down_proj";

bool ends_with(std::string_view text, std::string_view tail) { return text.ends_with(tail); }

std::string prefix_of(const ParameterRow& row, std::string_view tail) {
  return "model." + row.name.substr(0, row.name.size() - tail.size());
}

/// Place of a tensor within its layer in the order in which transformers registers modules.
int state_dict_place(std::string_view name) {
  static constexpr std::string_view order[] = {"self_attn.q_proj.weight",
                                               "self_attn.k_proj.weight",
                                               "self_attn.v_proj.weight",
                                               "self_attn.o_proj.weight",
                                               "mamba.A_log",
                                               "mamba.D",
                                               "mamba.conv1d.weight",
                                               "mamba.conv1d.bias",
                                               "mamba.in_proj.weight",
                                               "mamba.in_proj.bias",
                                               "mamba.x_proj.weight",
                                               "mamba.dt_proj.weight",
                                               "mamba.dt_proj.bias",
                                               "mamba.out_proj.weight",
                                               "mamba.out_proj.bias",
                                               "mamba.dt_layernorm.weight",
                                               "mamba.b_layernorm.weight",
                                               "mamba.c_layernorm.weight",
                                               "feed_forward.router.weight",
                                               gate_up_dense,
                                               "feed_forward.down_proj.weight",
                                               gate_up_experts,
                                               down_experts,
                                               "input_layernorm.weight",
                                               "pre_ff_layernorm.weight"};
  for (size_t i = 0; i < std::size(order); i++)
    if (ends_with(name, order[i])) return int(i);
  return 0;  // embedding, final norm, head: alone in their table layer, or in table order
}

void add_whole(const std::vector<ParameterRow>& table, int index, std::vector<HfTensor>& out) {
  const ParameterRow& row = table[size_t(index)];
  HfTensor t{
      row.name == "lm_head.weight" ? row.name : "model." + row.name, row.shape, index, -1, 0, row.shape[0]};
  // PyTorch's depthwise convolution has a dimension of one input channel a group.
  if (ends_with(row.name, "conv1d.weight")) t.hf_shape = {row.shape[0], 1, row.shape[1]};
  out.push_back(std::move(t));
}

void add_dense_gate_up(const std::vector<ParameterRow>& table, int index, std::vector<HfTensor>& out) {
  const ParameterRow& row = table[size_t(index)];
  const int64_t I = row.shape[0] / 2, d = row.shape[1];
  const std::string prefix = prefix_of(row, "gate_up_proj.weight");
  out.push_back({prefix + "gate_proj.weight", {I, d}, index, -1, 0, I});
  out.push_back({prefix + "up_proj.weight", {I, d}, index, -1, I, 2 * I});
}

void add_experts(const std::vector<ParameterRow>& table, int gate_up, int down, std::vector<HfTensor>& out) {
  const ParameterRow& row = table[size_t(gate_up)];
  const int64_t E = row.shape[0], I = row.shape[1] / 2, d = row.shape[2];
  const std::string prefix = prefix_of(row, "gate_up_proj");
  for (int64_t e = 0; e < E; e++) {
    out.push_back({cat(prefix, e, ".gate_proj.weight"), {I, d}, gate_up, e, 0, I});
    out.push_back({cat(prefix, e, ".up_proj.weight"), {I, d}, gate_up, e, I, 2 * I});
    out.push_back({cat(prefix, e, ".down_proj.weight"), {d, I}, down, e, 0, d});
  }
}

}  // namespace

std::vector<HfTensor> hf_tensors(const ModelConfig&, const std::vector<ParameterRow>& table) {
  std::vector<int> order;
  for (size_t i = 0; i < table.size(); i++) order.push_back(int(i));
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    const ParameterRow &x = table[size_t(a)], &y = table[size_t(b)];
    if (x.layer != y.layer) return x.layer < y.layer;
    return state_dict_place(x.name) < state_dict_place(y.name);
  });
  std::vector<HfTensor> tensors;
  for (size_t i = 0; i < order.size(); i++) {
    const std::string& name = table[size_t(order[i])].name;
    if (ends_with(name, gate_up_dense)) {
      add_dense_gate_up(table, order[i], tensors);
    } else if (ends_with(name, gate_up_experts)) {
      JAMBALAYA_CHECK(i + 1 < order.size() && ends_with(table[size_t(order[i + 1])].name, down_experts),
                      name);
      add_experts(table, order[i], order[i + 1], tensors);
      i++;
    } else {
      add_whole(table, order[i], tensors);
    }
  }
  return tensors;
}

std::string current_hf_name(const std::string& name, const std::vector<LayerKind>& kinds) {
  constexpr std::string_view layers = "model.layers.";
  if (!name.starts_with(layers)) return name;
  char* end = nullptr;
  const char* digits = name.c_str() + layers.size();
  const long layer = std::strtol(digits, &end, 10);
  if (end == digits || *end != '.' || layer < 0 || size_t(layer) >= kinds.size()) return name;
  const std::string head = name.substr(0, size_t(end + 1 - name.c_str()));
  std::string tail(end + 1);
  const auto replace_start = [&](std::string_view old_start, std::string_view new_start) {
    if (!tail.starts_with(old_start)) return false;
    tail = std::string(new_start) + tail.substr(old_start.size());
    return true;
  };
  replace_start("pre_moe_layernorm.", "pre_ff_layernorm.");
  replace_start("mamba.B_layernorm.", "mamba.b_layernorm.");
  replace_start("mamba.C_layernorm.", "mamba.c_layernorm.");
  if (replace_start("moe.", "feed_forward.") && kinds[size_t(layer)].channel == Channel::dense)
    replace_start("feed_forward.experts.0.", "feed_forward.");
  return head + tail;
}

ElementRange elements_of(const HfTensor& tensor, const ParameterRow& row) {
  const size_t matrix_dim = tensor.expert >= 0 ? 1 : 0;
  int64_t row_elements = 1;
  for (size_t d = matrix_dim + 1; d < row.shape.size(); d++) row_elements *= row.shape[d];
  const int64_t expert_start = tensor.expert >= 0 ? tensor.expert * row.shape[1] * row_elements : 0;
  return {expert_start + tensor.begin * row_elements, (tensor.end - tensor.begin) * row_elements};
}

TensorNames::TensorNames(const ModelConfig& config, const std::vector<ParameterRow>& table, bool native)
    : kinds_(layer_kinds(config)), table_(table), native_(native) {
  std::vector<HfTensor> whole;
  for (int i = 0; i < int(table.size()); i++) {
    const ParameterRow& row = table[size_t(i)];
    if (native) {
      whole.push_back({row.name, row.shape, i, -1, 0, row.shape[0]});
    } else if (ends_with(row.name, gate_up_dense)) {
      add_dense_gate_up(table, i, whole);
    } else {
      add_whole(table, i, whole);
      if (ends_with(row.name, gate_up_experts)) experts_[prefix_of(row, "gate_up_proj")].gate_up = i;
      if (ends_with(row.name, down_experts)) experts_[prefix_of(row, "down_proj")].down = i;
    }
  }
  for (HfTensor& tensor : whole) whole_.emplace(tensor.hf_name, tensor);
}

std::optional<HfTensor> TensorNames::locate(const std::string& file_name) const {
  const std::string name = native_ ? file_name : current_hf_name(file_name, kinds_);
  if (auto found = whole_.find(name); found != whole_.end()) return found->second;
  constexpr std::string_view mark = ".experts.";
  const size_t at = name.find(mark);
  if (native_ || at == std::string::npos) return std::nullopt;
  const auto rows = experts_.find(name.substr(0, at + mark.size()));
  if (rows == experts_.end()) return std::nullopt;
  const std::string rest = name.substr(at + mark.size());
  const size_t digits = rest.find_first_not_of("0123456789");
  if (digits == 0 || digits == std::string::npos || digits > 6 || (rest[0] == '0' && digits > 1))
    return std::nullopt;
  const int64_t expert = std::stoll(rest.substr(0, digits));
  const std::string part = rest.substr(digits);
  const ParameterRow& row = table_[size_t(rows->second.gate_up)];
  const int64_t E = row.shape[0], I = row.shape[1] / 2, d = row.shape[2];
  if (expert >= E) return std::nullopt;
  if (part == ".gate_proj.weight") return HfTensor{name, {I, d}, rows->second.gate_up, expert, 0, I};
  if (part == ".up_proj.weight") return HfTensor{name, {I, d}, rows->second.gate_up, expert, I, 2 * I};
  if (part == ".down_proj.weight") return HfTensor{name, {d, I}, rows->second.down, expert, 0, d};
  return std::nullopt;
}

std::string TensorNames::name_of_element(int index, int64_t element) const {
  const ParameterRow& row = table_[size_t(index)];
  if (native_) return row.name;
  std::vector<HfTensor> parts;
  if (ends_with(row.name, gate_up_dense)) {
    add_dense_gate_up(table_, index, parts);
  } else if (ends_with(row.name, gate_up_experts)) {
    const int64_t matrix = row.shape[1] * row.shape[2];
    const bool up = element % matrix >= matrix / 2;
    return cat(prefix_of(row, "gate_up_proj"), element / matrix,
               up ? ".up_proj.weight" : ".gate_proj.weight");
  } else if (ends_with(row.name, down_experts)) {
    return cat(prefix_of(row, "down_proj"), element / (row.shape[1] * row.shape[2]), ".down_proj.weight");
  } else {
    add_whole(table_, index, parts);
  }
  for (const HfTensor& part : parts) {
    const ElementRange range = elements_of(part, row);
    if (element >= range.first && element < range.first + range.count) return part.hf_name;
  }
  return row.name;
}

}  // namespace jambalaya
