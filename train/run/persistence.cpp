#include "train/run/persistence.h"

#include <sstream>

#include "train/config.h"

namespace jambalaya {

namespace {

Box whole_row(const std::string& kind, const ParameterRow& row, const Tensor& local) {
  return {kind + "/" + row.name, row.shape, std::vector<int64_t>(row.shape.size(), 0), local};
}

std::vector<Box> boxes_of(const Parameters& parameters, const Optimizer* optimizer, int rank, int ranks) {
  std::vector<Box> boxes;
  const auto& table = parameters.table();
  for (size_t i = 0; i < table.size(); i++) {
    if (ranks > 1 && int(parameters.offset(int(i)) * ranks / parameters.flat_size()) != rank) continue;
    boxes.push_back(whole_row("param", table[i], parameters.master(int(i))));
    if (!optimizer) continue;
    boxes.push_back(whole_row("adam_m", table[i], optimizer->first_moment(int(i))));
    boxes.push_back(whole_row("adam_v", table[i], optimizer->second_moment(int(i))));
  }
  return boxes;
}

}  // namespace

std::vector<Box> boxes_to_write(const Parameters& parameters, const Optimizer* optimizer, int rank,
                                int ranks) {
  return boxes_of(parameters, optimizer, rank, ranks);
}

void load_tensors(Context& ctx, const CheckpointInfo& info, Parameters& parameters, Optimizer* optimizer) {
  if (optimizer && info.weights_only)
    throw Error(
        Exit::checkpoint,
        cat(info.path, " holds weights alone, no optimizer moments: start from it with train.init_from"));
  std::vector<Box> boxes = boxes_of(parameters, optimizer, 0, 1);
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
