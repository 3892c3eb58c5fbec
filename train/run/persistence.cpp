#include "train/run/persistence.h"

#include <algorithm>
#include <sstream>

#include "train/config.h"

namespace jambalaya {

namespace {

/// Elements [begin, end) of a local row.
struct Range {
  int64_t begin, end;
};

/// The share of holder h among `holders` ranks that hold the same range of a row: whole rows of the matrix,
/// at least kLeast elements, so that small tensors stay in one box. Which holder takes which share rotates
/// with `turn`.
Range share_of(Range range, int64_t inner, int h, int holders, int turn) {
  constexpr int64_t kLeast = 1 << 14;
  const int64_t unit = (kLeast + inner - 1) / std::max<int64_t>(inner, 1) * inner;
  const int share = (h + turn) % holders;
  const auto point = [&](int i) {
    if (i == holders) return range.end;
    const int64_t at = range.begin + (range.end - range.begin) * i / holders;
    return std::max(range.begin, unit > 0 ? at / unit * unit : at);
  };
  return {point(share), point(share + 1)};
}

/// What this rank writes of a slice: each element is written by one of the ranks that hold it.
Range written(const Parameters& parameters, const OwnedSlice& slice) {
  const ParameterRow& row = parameters.table()[size_t(slice.row)];
  const PlacementRanks& ranks = parameters.ranks();
  const std::vector<int64_t> shape = local_shape(row, ranks);
  int64_t n = 1;
  for (int64_t s : shape) n *= s;
  const int64_t inner = shape[0] ? n / shape[0] : 0;
  // Copies on other tensor ranks may own other ranges of the row: the whole row is shared out to them.
  const int sharers = copies(row, ranks);
  const Range mine = share_of({0, n}, inner, ranks.tensor % sharers, sharers, slice.row);
  const Range own{std::max(slice.begin, mine.begin), std::min(slice.end, mine.end)};
  if (own.begin >= own.end) return {0, 0};
  const ShardGroup& group = shard_group(row, ranks);
  return share_of(own, inner, group.replica, group.replicas, slice.row);
}

void add_boxes(const Parameters& parameters, const OwnedSlice& slice, Range range, const std::string& kind,
               const Tensor& owned, std::vector<Box>& boxes) {
  const ParameterRow& row = parameters.table()[size_t(slice.row)];
  for (const Rectangle& piece : pieces(row, parameters.ranks(), range.begin, range.end)) {
    Tensor local = owned;
    local.data = owned.address(slice.at + piece.at - slice.begin);
    local.rank = int(piece.shape.size());
    std::copy(piece.shape.begin(), piece.shape.end(), local.shape.begin());
    local.row_stride = local.columns();
    boxes.push_back(
        {kind + "/" + row.name, row.shape, piece.offset, local, nullptr, parameters.accelerator()});
  }
}

/// The owned elements as boxes: all of them, or those that this rank writes.
std::vector<Box> boxes_of(const Parameters& parameters, const Optimizer* optimizer, bool to_write) {
  std::vector<Box> boxes;
  for (const OwnedSlice& slice : parameters.owned()) {
    const Range range = to_write ? written(parameters, slice) : Range{slice.begin, slice.end};
    add_boxes(parameters, slice, range, "param", parameters.owned_master(), boxes);
    if (!optimizer) continue;
    add_boxes(parameters, slice, range, "adam_m", optimizer->first_moments(), boxes);
    add_boxes(parameters, slice, range, "adam_v", optimizer->second_moments(), boxes);
  }
  return boxes;
}

}  // namespace

std::vector<Box> boxes_to_write(const Parameters& parameters, const Optimizer* optimizer) {
  return boxes_of(parameters, optimizer, true);
}

void load_tensors(Context& ctx, const CheckpointInfo& info, Parameters& parameters, Optimizer* optimizer) {
  if (optimizer && info.weights_only)
    throw Error(
        Exit::checkpoint,
        cat(info.path, " holds weights alone, no optimizer moments: start from it with train.init_from"));
  std::vector<Box> boxes = boxes_of(parameters, optimizer, false);
  read_boxes(info, boxes);
  parameters.refresh_compute(ctx);
}

void check_same_model(const CheckpointInfo& info, const ModelConfig& config) {
  // What a run trains towards and started from may change on the way (Jamba-1.5 adds its activation loss near
  // the end); what its tensors mean may not.
  ModelConfig model = config;
  const ModelConfig& stored = info.model;
  model.mamba_dt_rank =
      stored.dt_rank() == config.dt_rank() ? stored.mamba_dt_rank : config.mamba_dt_rank;  // 0: automatic
  model.aux_mode = stored.aux_mode;
  model.router_aux_loss_coef = stored.router_aux_loss_coef;
  model.router_z_loss_coef = stored.router_z_loss_coef;
  model.head_z_loss_coef = stored.head_z_loss_coef;
  model.act_loss_alpha = stored.act_loss_alpha;
  model.init_scheme = stored.init_scheme;
  model.initializer_range = stored.initializer_range;
  model.dt_min = stored.dt_min, model.dt_max = stored.dt_max, model.dt_floor = stored.dt_floor;
  model.max_position_embeddings = stored.max_position_embeddings;
  std::istringstream theirs(model_to_yaml(info.model)), ours(model_to_yaml(model));
  std::string difference, a, b;
  // Both texts have every key of the model, one a line, in the same order.
  while (std::getline(theirs, a) && std::getline(ours, b))
    if (a != b) difference += cat("\n  the checkpoint has '", a, "', the config '", b, "'");
  if (!difference.empty())
    throw Error(
        Exit::usage,
        cat(info.path, " is of another model:", difference,
            "\nuse the checkpoint's own config (config.yaml in its run folder), or another run.folder"));
}

}  // namespace jambalaya
