// Generation: prefill in chunks of any size and single steps are the same operation, `extend`. Attention
// appends to its cache; Mamba carries the last W-1 inputs of the convolution and the scan's state, both in
// fp32, so a step costs the same whatever the length behind it (attention's own cost aside).
#include <algorithm>

#include "kernels/transfer.h"
#include "model/stack.h"

namespace jambalaya {

DecodeState::DecodeState(const ModelConfig& m, Precision precision, int64_t sequences, int64_t max_length,
                         int tensors, Accelerator* accelerator)
    : sequences_(sequences),
      max_length_(max_length),
      accelerator_(accelerator),
      lengths_(size_t(sequences), 0) {
  const DType act = precision == Precision::bf16 ? DType::bf16 : DType::f32;
  // A key head is copied where there are fewer than ranks.
  const int64_t kv = std::max<int64_t>(1, m.num_key_value_heads / tensors) * m.head_size(),
                e = m.inner_size() / tensors;
  std::vector<LayerKind> kinds = layer_kinds(m);
  int64_t bytes = 1 << 20;
  for (LayerKind kind : kinds)
    bytes += kind.mixer == Mixer::attention
                 ? 2 * sequences * max_length * kv * size_of(act) + 512
                 : sequences * e * (m.mamba_d_conv - 1 + m.mamba_d_state) * 4 + 512;
  arena_ = std::make_unique<Arena>("generation state", bytes, accelerator);
  for (LayerKind kind : kinds) {
    Layer layer;
    if (kind.mixer == Mixer::attention) {
      layer.keys = arena_->tensor(act, {sequences * max_length, kv}, "key/value cache");
      layer.values = arena_->tensor(act, {sequences * max_length, kv}, "key/value cache");
    } else {
      layer.conv = arena_->tensor(DType::f32, {sequences, m.mamba_d_conv - 1, e}, "convolution state");
      layer.ssm = arena_->tensor(DType::f32, {sequences, m.mamba_d_state, e}, "scan state");
    }
    layers_.push_back(layer);
  }
  for (int64_t slot = 0; slot < sequences; slot++) reset(slot);
}

void DecodeState::reset(int64_t slot) {
  lengths_[size_t(slot)] = 0;
  const Context ctx = transfer_context(accelerator_);
  for (Layer& layer : layers_)
    for (const Tensor& state : {layer.conv, layer.ssm})
      if (state) clear(ctx, state.at(slot));
}

int64_t DecodeState::kv_bytes() const {
  int64_t n = 0;
  for (const Layer& layer : layers_) n += layer.keys ? layer.keys.bytes() + layer.values.bytes() : 0;
  return n;
}

int64_t DecodeState::recurrent_bytes() const {
  int64_t n = 0;
  for (const Layer& layer : layers_) n += layer.conv ? layer.conv.bytes() + layer.ssm.bytes() : 0;
  return n;
}

/// Those rows of the residual stream.
Jamba::Impl::Hidden Jamba::Impl::pick(const Pass& pass, const Hidden& hidden,
                                      const std::vector<int64_t>& rows) {
  const int64_t n = int64_t(rows.size()), d = config.hidden_size;
  Hidden picked{pass.keep(pass.residual(), {n, d}, "last tokens"),
                pass.keep(pass.act(), {n, d}, "last tokens")};
  const std::vector<int32_t> from(rows.begin(), rows.end());
  const Tensor index = to_device(pass.ctx, from, saved, "last tokens");
  pass.ops().gather_rows(pass.ctx, {hidden.h, index, picked.h});
  pass.ops().gather_rows(pass.ctx, {hidden.branch, index, picked.branch});
  return picked;
}

void Jamba::extend(Context& ctx, DecodeState& state, const Tensor& ids, const std::vector<int64_t>& lengths,
                   Tensor logits) {
  Impl& m = *impl_;
  const int64_t sequences = state.sequences();
  JAMBALAYA_CHECK(int64_t(lengths.size()) == sequences, lengths.size(), " lengths for ", sequences,
                  " sequences");
  std::vector<int64_t> key_begin(lengths.size());
  for (int64_t s = 0; s < sequences; s++) {
    key_begin[size_t(s)] = s * state.max_length_;
    if (state.length(s) + lengths[size_t(s)] > state.max_length_)
      throw Error(Exit::usage, cat("sequence ", s, " would grow to ", state.length(s) + lengths[size_t(s)],
                                   " tokens; room was made for ", state.max_length_));
  }
  DocumentsBuffer documents(lengths, state.lengths_);
  ArenaScope scope(m.saved);
  Pass pass = m.make_pass(ctx, m.on_device(ctx, documents.view()), false);
  JAMBALAYA_CHECK(ids.rows() == pass.tokens());
  std::vector<LayerState> states;
  for (const DecodeState::Layer& layer : state.layers_)
    states.push_back(
        {layer.keys, layer.values, make_tensor(key_begin.data(), {sequences}), layer.conv, layer.ssm});
  Impl::Hidden hidden =
      m.forward(pass, to_device(ctx, ids, m.saved, "ids"), {}, double(pass.tokens()), &states);

  // Only the last token of each segment needs logits. Its rank norms it; all tensor ranks score it.
  const Span own = m.regions.rows(pass.tokens());
  std::vector<int64_t> slots, last_rows, per_rank(size_t(m.regions.tensors()), 0);
  for (int64_t s = 0; s < sequences; s++) {
    if (!lengths[size_t(s)]) continue;
    state.lengths_[size_t(s)] += lengths[size_t(s)];
    slots.push_back(s);
    const int64_t row = pass.docs.offsets[s + 1] - 1;
    if (m.regions.splits_rows()) per_rank[size_t(m.regions.owner_of(row, pass.tokens()))]++;
    if (own.begin <= row && row < own.end) last_rows.push_back(row - own.begin);
  }
  m.borrow_head(Travel::forward);
  Tensor h_sum, rstd, y = m.normalize(pass, m.pick(pass, hidden, last_rows), h_sum, rstd);
  ArenaScope scratch(*ctx.scratch);
  if (m.regions.splits_rows()) y = m.regions.gather_rows(ctx, y, per_rank);
  const int64_t rows = int64_t(slots.size());
  Tensor some = rows == sequences ? logits : pass.keep(DType::f32, {rows, logits.columns()}, "logits");
  m.logits_of(pass, y, some);
  m.give_head_back(Travel::forward);
  if (rows == sequences) return;
  for (int64_t i = 0; i < rows; i++)
    pass.ops().scale_copy(ctx, {.x = some.slice_rows(i, i + 1),
                                .y = logits.slice_rows(slots[size_t(i)], slots[size_t(i)] + 1)});
}

}  // namespace jambalaya
