#include "model/jamba.h"

#include "kernels/transfer.h"
#include "model/stack.h"

namespace jambalaya {

double objective(const ModelConfig& c, const double sums[kLossSums], const LossScale& s) {
  return (sums[kNll] + c.head_z_loss_coef * sums[kHeadZ]) * s.token +
         (c.router_aux_loss_coef * sums[kAux] + c.router_z_loss_coef * sums[kRouterZ] +
          c.act_loss_alpha * sums[kActivation]) *
             s.micro;
}

Jamba::Jamba(Parameters& parameters, Regions& regions, int64_t saved_bytes)
    : impl_(std::make_unique<Impl>(*this, parameters, regions, saved_bytes)) {}
Jamba::~Jamba() = default;
const ModelConfig& Jamba::config() const { return impl_->config; }
Arena& Jamba::saved_arena() { return impl_->saved; }

void Jamba::train(Context& ctx, const Batch& host_batch, const LossScale& scale, Tensor sums) {
  Impl& m = *impl_;
  ArenaScope scope(m.saved);
  const Batch batch = m.on_device(ctx, host_batch);
  Pass pass = m.make_pass(ctx, batch.docs, true, batch.context);
  const int64_t t = pass.rows(), d = m.config.hidden_size;
  Impl::Hidden hidden = m.forward(pass, batch.ids, sums, scale.micro_tokens);
  if (m.stats) m.regions.sum_over_tokens(ctx, m.stats);
  m.balance(pass, scale.micro_tokens, scale.micro, sums);

  m.borrow_head(Travel::backward);
  Tensor h_sum, rstd, y = m.normalize(pass, hidden, h_sum, rstd);
  Tensor dy = pass.keep(pass.act(), {t, d}, "final gradient"),
         dh = pass.keep(DType::f32, {t, d}, "residual gradient");
  m.head_loss(pass, y,
              {.targets = batch.targets,
               .scale = float(scale.token),
               .z_scale = float(m.config.head_z_loss_coef * scale.token),
               .loss_sum = sums.slice_rows(kNll, kNll + 2)},
              dy);
  clear(ctx, dh);
  pass.ops().rms_norm_backward(ctx, {.dy = dy,
                                     .h = h_sum,
                                     .weight = m.parameters.value(m.final_norm),
                                     .rstd = rstd,
                                     .dh = dh,
                                     .dweight = m.parameters.gradient(m.final_norm)});
  m.give_head_back(Travel::backward);
  if (on_gradients && !m.config.tie_word_embeddings) on_gradients(int(m.layers.size()));
  m.backward(pass, batch.ids, dh, scale);
  if (on_gradients && m.config.tie_word_embeddings) on_gradients(int(m.layers.size()));
}

void Jamba::evaluate(Context& ctx, const Batch& host_batch, Tensor sums, Tensor nll, Tensor correct,
                     Tensor logits) {
  Impl& m = *impl_;
  ArenaScope scope(m.saved);
  const Batch batch = m.on_device(ctx, host_batch);
  Pass pass = m.make_pass(ctx, batch.docs, false, batch.context);
  double tokens = double(m.regions.routed(pass.tokens()).count());
  m.regions.sum_over_tokens(ctx, make_tensor(&tokens, {1}));
  Impl::Hidden hidden = m.forward(pass, batch.ids, sums, tokens);
  if (m.stats) m.regions.sum_over_tokens(ctx, m.stats);
  m.balance(pass, tokens, 1, sums);
  m.borrow_head(Travel::forward);
  Tensor h_sum, rstd, y = m.normalize(pass, hidden, h_sum, rstd);
  m.head_loss(pass, y,
              {.targets = batch.targets,
               .loss_sum = sums.slice_rows(kNll, kNll + 2),
               .nll = nll,
               .correct = correct});
  if (logits) {
    ArenaScope scratch(*ctx.scratch);
    m.logits_of(pass, m.regions.enter(ctx, y, pass.tokens()), logits);
  }
  m.give_head_back(Travel::forward);
}

}  // namespace jambalaya
