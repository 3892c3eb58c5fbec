// What a forward tells besides its loss: balance loss from the routers' statistics, activation loss and
// telemetry from the branches' outputs. Everything comes out equal on all tensor ranks.
#include <algorithm>
#include <vector>

#include "kernels/transfer.h"
#include "model/stack.h"

namespace jambalaya {

void Jamba::Impl::balance(const Pass& pass, double tokens, double micro, const Tensor& sums) {
  if (!stats || tokens == 0) return;  // the means over no tokens are nothing
  pass.ops().balance_loss(
      pass.ctx,
      {.stats = stats,
       .tokens = tokens,
       .per_layer = config.aux_mode != AuxMode::hf_global,
       .factor = config.aux_mode == AuxMode::megablocks ? 1.0 / double(config.num_experts_per_tok) : 1.0,
       .weight = config.router_aux_loss_coef * micro,
       .dprob = dprob,
       .sums = sums.slice_rows(kAux, kAux + 2)});
  for (Layer& layer : layers)
    if (layer.moe)
      layer.moe->z_scale = float(config.router_z_loss_coef * micro / (tokens * double(stats.rows())));
}

BranchStatistics Jamba::Impl::statistics_of(size_t layer, const Tensor& sums, double micro_tokens) const {
  BranchStatistics s;
  if (sums && config.act_loss_alpha > 0) {
    s.activation = activation;
    s.weight = 1 / (std::max(micro_tokens, 1.0) * double(config.hidden_size));
  }
  if (owner.telemetry) {
    s.mixer = branch_sums.at(int64_t(layer)).at(0);
    s.channel = branch_sums.at(int64_t(layer)).at(1);
  }
  return s;
}

void Jamba::Impl::add_activation(const Pass& pass, const Tensor& sums) {
  if (!sums || config.act_loss_alpha == 0) return;
  const Tensor own = activation.slice_rows(0, 1);
  if (regions.splits_rows()) regions.mesh().tensor().all_reduce(own);
  pass.ops().scale_copy(pass.ctx,
                        {.x = own, .y = sums.slice_rows(kActivation, kActivation + 1), .accumulate = true});
}

namespace {

double merged(Reduce how, double a, double b) {
  return how == Reduce::sum ? a + b : how == Reduce::max ? std::max(a, b) : std::min(a, b);
}

/// What the forward told, on the host.
struct Told {
  std::vector<double> branches;  ///< [layers, 2 (mixer, channel), 2]
  std::vector<float> deltas;     ///< [layers, 2]
  std::vector<float> stats;      ///< [expert layers, 2X + 1]
};

/// What each tensor rank saw becomes what all of them saw, by one packed collective. Router statistics are
/// sums over all ranks already.
void merge_over_tensor_ranks(Told& told, Regions& regions) {
  const int ranks = regions.tensors();
  std::vector<double> own(told.branches);
  own.insert(own.end(), told.deltas.begin(), told.deltas.end());
  const size_t n = own.size(), branches = told.branches.size();
  std::vector<double> all(n * size_t(ranks));
  regions.mesh().tensor().all_gather(make_tensor(own.data(), {int64_t(n)}),
                                     make_tensor(all.data(), {int64_t(all.size())}));
  for (size_t i = 0; i < n; i++) {
    // A pair is (sum, largest) of a branch, of rows that the ranks share or all hold; or (smallest, largest)
    // step size.
    const Reduce first = i >= branches ? Reduce::min : regions.splits_rows() ? Reduce::sum : Reduce::max;
    double value = all[i];
    for (size_t r = 1; r < size_t(ranks); r++)
      value = merged(i % 2 ? Reduce::max : first, value, all[r * n + i]);
    if (i < branches)
      told.branches[i] = value;
    else
      told.deltas[i - branches] = float(value);
  }
}

/// An enqueued copy to the host.
template <class T>
void read(const Context& ctx, const Tensor& x, std::vector<T>& values) {
  if (!x) return;
  values.resize(size_t(x.numel()));
  Tensor host = x;
  host.data = values.data(), host.device = Device::cpu;
  copy(ctx, x, host);
}

}  // namespace

std::vector<LayerTelemetry> Jamba::layer_telemetry() const {
  const Impl& m = *impl_;
  const Context ctx = transfer_context(m.parameters.accelerator());
  Told told;
  read(ctx, m.branch_sums, told.branches);
  read(ctx, m.delta_ranges, told.deltas);
  read(ctx, m.stats, told.stats);
  synchronize(ctx);
  if (m.regions.tensors() > 1) merge_over_tensor_ranks(told, m.regions);

  std::vector<LayerTelemetry> all(m.layers.size());
  const float* counts = told.stats.data();
  for (size_t i = 0; i < all.size(); i++) {
    LayerTelemetry& t = all[i];
    t.mixer_max = told.branches[4 * i + 1];
    t.channel_max = told.branches[4 * i + 3];
    if (m.layers[i].mamba) t.delta_min = told.deltas[2 * i], t.delta_max = told.deltas[2 * i + 1];
    if (!m.layers[i].moe) continue;
    const int64_t experts = m.config.num_experts;
    double total = 0;
    for (int64_t x = 0; x < experts; x++) total += double(counts[x]);
    for (int64_t x = 0; x < experts; x++)
      t.expert_load.push_back(float(double(counts[x]) / std::max(total, 1.0)));
    counts += 2 * experts + 1;
  }
  return all;
}

}  // namespace jambalaya
