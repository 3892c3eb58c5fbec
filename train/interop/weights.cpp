#include "train/interop/weights.h"

#include <algorithm>

#include "kernels/transfer.h"
#include "train/checkpoint/whole.h"

namespace jambalaya {
namespace {

/// A part of a row as the box of the global tensor that it is.
Box box_of(const HfTensor& part, const ParameterRow& row, float* data) {
  std::vector<int64_t> offset(row.shape.size(), 0), shape = row.shape;
  const size_t matrix_dim = part.expert >= 0 ? 1 : 0;
  if (part.expert >= 0) offset[0] = part.expert, shape[0] = 1;
  offset[matrix_dim] = part.begin;
  shape[matrix_dim] = part.end - part.begin;
  return box_at("param/" + row.name, row.shape, std::move(offset), shape, data);
}

int64_t elements(const HfTensor& part) {
  int64_t n = 1;
  for (int64_t extent : part.hf_shape) n *= extent;
  return n;
}

}  // namespace

void ParameterWeights::read(const HfTensor& part, int64_t first, int64_t count, float* out) {
  const ParameterRow& row = parameters_.table()[size_t(part.row)];
  const Tensor master = parameters_.master(part.row);
  JAMBALAYA_CHECK(master.numel() == row.numel(), "export needs whole parameters");
  const int64_t begin = elements_of(part, row).first + first;
  Tensor flat = master;
  flat.rank = 1, flat.shape[0] = master.numel(), flat.row_stride = 1;
  const Context ctx = transfer_context(parameters_.accelerator());
  copy(ctx, flat.slice_rows(begin, begin + count), make_tensor(out, {count}));
  synchronize(ctx);
}

CheckpointWeights::CheckpointWeights(const CheckpointInfo& info, int64_t largest)
    : info_(info),
      table_(parameter_table(info.model)),
      // Pieces of an arena begin at multiples of 64 bytes.
      memory_("weights of a checkpoint", (largest * int64_t(sizeof(float)) + 63) / 64 * 64),
      start_(memory_.mark()) {
  for (const ParameterRow& row : table_) {
    const auto stored = std::find_if(info.tensors.begin(), info.tensors.end(),
                                     [&](const auto& t) { return t.name == "param/" + row.name; });
    if (stored == info.tensors.end() || stored->global_shape != row.shape)
      throw Error(Exit::checkpoint,
                  cat(info.path, ": tensor param/", row.name,
                      stored == info.tensors.end() ? " is missing" : " has another shape than its model",
                      ": the checkpoint cannot be exported"));
  }
}

void CheckpointWeights::read(const HfTensor& part, int64_t first, int64_t count, float* out) {
  if (held_ != part.hf_name) {
    held_.clear();
    memory_.release(start_);
    float* data = memory_.array<float>(elements(part), "tensor");
    std::vector<Box> boxes{box_of(part, table_[size_t(part.row)], data)};
    read_boxes(info_, boxes);
    values_ = data;
    held_ = part.hf_name;
  }
  std::copy_n(values_ + first, count, out);
}

std::vector<HfTensor> export_parts(const ModelConfig& config, ExportFormat format) {
  const std::vector<ParameterRow> table = parameter_table(config);
  if (format == ExportFormat::huggingface) return hf_tensors(config, table);
  std::vector<HfTensor> parts;
  for (int row = 0; row < int(table.size()); row++) {
    const ParameterRow& r = table[size_t(row)];
    parts.push_back({r.name, r.shape, row, -1, 0, r.shape[0]});
  }
  return parts;
}

int64_t largest_part(const std::vector<HfTensor>& parts) {
  int64_t largest = 0;
  for (const HfTensor& part : parts) largest = std::max(largest, elements(part));
  return largest;
}

}  // namespace jambalaya
