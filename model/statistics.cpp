// What a forward tells besides its loss: balance loss from the routers' statistics, activation loss and
// telemetry from the branches' outputs. Everything comes out equal on all tensor ranks.
#include <algorithm>
#include <vector>

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

namespace {

double merged(Reduce how, double a, double b) {
  return how == Reduce::sum ? a + b : how == Reduce::max ? std::max(a, b) : std::min(a, b);
}

}  // namespace

void Jamba::Impl::merge_statistics(const Tensor& sums) {
  const int ranks = regions.tensors();
  const bool with_activation = sums && config.act_loss_alpha > 0;
  if (ranks > 1 && (owner.telemetry || (with_activation && regions.splits_rows()))) merge_over_tensor_ranks();
  if (with_activation) sums.ptr<double>()[kActivation] += activation.ptr<double>()[0];
}

void Jamba::Impl::merge_over_tensor_ranks() {
  const int ranks = regions.tensors();
  const bool split = regions.splits_rows();
  // One packed collective: values of this rank, and how those of all ranks make one. Ranks that hold the same
  // rows have equal sums, which must not be added.
  std::vector<double> own;
  std::vector<Reduce> how;
  auto pack = [&](double value, Reduce reduce) { own.push_back(value), how.push_back(reduce); };
  auto pack_sum_and_max = [&](const Tensor& pairs) {
    for (int64_t i = 0; i < pairs.numel(); i++)
      pack(pairs.ptr<double>()[i], i % 2 || !split ? Reduce::max : Reduce::sum);
  };
  pack_sum_and_max(activation);
  pack_sum_and_max(branch_sums);
  for (int64_t i = 0; i < delta_ranges.numel(); i++)
    pack(double(delta_ranges.ptr<float>()[i]), i % 2 ? Reduce::max : Reduce::min);

  const size_t n = own.size();
  std::vector<double> all(n * size_t(ranks));
  regions.mesh().tensor().all_gather(make_tensor(own.data(), {int64_t(n)}),
                                     make_tensor(all.data(), {int64_t(all.size())}));
  for (size_t i = 0; i < n; i++) {
    own[i] = all[i];
    for (size_t r = 1; r < size_t(ranks); r++) own[i] = merged(how[i], own[i], all[r * n + i]);
  }
  const double* value = own.data();
  for (int64_t i = 0; i < activation.numel(); i++) activation.ptr<double>()[i] = *value++;
  for (int64_t i = 0; i < branch_sums.numel(); i++) branch_sums.ptr<double>()[i] = *value++;
  for (int64_t i = 0; i < delta_ranges.numel(); i++) delta_ranges.ptr<float>()[i] = float(*value++);
}

std::vector<LayerTelemetry> Jamba::layer_telemetry() const {
  const Impl& m = *impl_;
  std::vector<LayerTelemetry> all(m.layers.size());
  int64_t expert_layer = 0;
  for (size_t i = 0; i < all.size(); i++) {
    LayerTelemetry& t = all[i];
    const Tensor sums = m.branch_sums.at(int64_t(i));
    t.mixer_max = sums.at(0).ptr<double>()[1];
    t.channel_max = sums.at(1).ptr<double>()[1];
    if (m.layers[i].mamba) {
      t.delta_min = m.delta_ranges.at(int64_t(i)).ptr<float>()[0];
      t.delta_max = m.delta_ranges.at(int64_t(i)).ptr<float>()[1];
    }
    if (!m.layers[i].moe) continue;
    const float* counts = m.stats.at(expert_layer++).ptr<float>();
    double total = 0;
    for (int64_t x = 0; x < m.config.num_experts; x++) total += double(counts[x]);
    for (int64_t x = 0; x < m.config.num_experts; x++)
      t.expert_load.push_back(float(double(counts[x]) / std::max(total, 1.0)));
  }
  return all;
}

}  // namespace jambalaya
