// One layer of the stack: norm, mixer, residual, norm, channel mixer, residual; and the whole stack of them.
#pragma once
#include <memory>
#include <vector>

#include "model/jamba.h"
#include "model/layers.h"

namespace jambalaya {

/// Adds to a branch what depends on its output alone (Jamba-1.5's activation loss) and what is told about it.
struct BranchStatistics {
  Tensor activation;      ///< optional f64 [2]: sums of the activation loss
  double weight = 0;      ///< 1 / (tokens of the global micro-batch * width)
  Tensor mixer, channel;  ///< optional f64 [2]: sum of squares and largest magnitude (telemetry)
};

class Layer {
 public:
  Layer(const Parameters& parameters, int index, LayerKind kind);
  const LayerKind kind;
  std::unique_ptr<Attention> attention;
  std::unique_ptr<Mamba> mamba;
  std::unique_ptr<DenseMlp> mlp;
  std::unique_ptr<Moe> moe;

  /// T: this rank's rows of the residual stream (Pass::rows).
  ///
  /// h + branch -> (h_mid, out) with h_mid the residual stream after the mixer's sum and out [T, D] the
  /// channel mixer's output, not yet added. `branch` is empty before the first layer. h_mid [T, D] is given
  /// by the caller. Returns the residual stream that entered (h + branch), which the backward needs.
  Tensor forward(const Pass& pass, const Tensor& h, const Tensor& branch, const Tensor& h_mid,
                 const Tensor& out, const BranchStatistics& statistics, const LayerState* state = nullptr);
  /// dh [T, D] f32: on entry the gradient of the residual stream after the layer, on return that before it.
  /// activation_weight: 2 alpha / (tokens * width), 0 without the activation loss.
  void backward(const Pass& pass, const Tensor& dh, float activation_weight);

 private:
  Tensor branch_gradient(const Pass& pass, const Tensor& dh, const Tensor& output,
                         float activation_weight) const;
  // The mixer or channel mixer that this layer has, on what is saved.
  void mixer_forward(const Pass& pass, const LayerState* state);
  void channel_forward(const Pass& pass);
  void mixer_backward(const Pass& pass, const Tensor& dmixed, const Tensor& dx);
  void channel_backward(const Pass& pass, const Tensor& dout, const Tensor& dx);

  int index_, norm1_, norm2_;
  struct Saved {
    Tensor h_in, h_mid, y1, y2, rstd1, rstd2;
    Tensor mixed, out;  ///< branch outputs, for the activation loss
  } saved_;
};

struct Jamba::Impl {
  Impl(Jamba& owner, Parameters& parameters, Regions& regions, int64_t saved_bytes);

  Jamba& owner;
  Parameters& parameters;
  Regions& regions;
  const ModelConfig& config;
  std::vector<Layer> layers;
  int embedding, final_norm, head;  ///< table rows; head is the embedding when tied
  Arena saved, fixed;
  Tensor stats, dprob;  ///< f32 [expert layers, 2X + 1], [expert layers, X]
  Tensor delta_ranges;  ///< f32 [layers, 2]
  Tensor branch_sums;   ///< f64 [layers, 2 (mixer, channel), 2]
  Tensor activation;    ///< f64 [2]: this forward's part of kActivation; largest |element|

  struct Hidden {
    Tensor h, branch;  ///< the final residual stream is h + branch
  };
  /// The batch with tokens and documents in the context's memory, in `saved`.
  Batch on_device(Context& ctx, const Batch& batch);
  Documents on_device(Context& ctx, const Documents& docs);
  Pass make_pass(Context& ctx, const Documents& docs, bool training, const ContextShard* context = nullptr);
  /// Embedding and all layers: this rank's rows of the residual stream. Tensors live in `saved`.
  Hidden forward(const Pass& pass, const Tensor& ids, const Tensor& sums, double micro_tokens,
                 std::vector<LayerState>* states = nullptr);
  Hidden pick(const Pass& pass, const Hidden& hidden, const std::vector<int64_t>& rows);
  /// Final norm of rows; h_sum receives h + branch.
  Tensor normalize(const Pass& pass, const Hidden& hidden, Tensor& h_sum, Tensor& rstd);
  void backward(const Pass& pass, const Tensor& ids, const Tensor& dh, const LossScale& scale);
  /// Final norm and head, and the embedding where it is the head (see Parameters::borrow).
  void borrow_head(Travel travel);
  void give_head_back(Travel travel);

  // model/statistics.cpp
  void balance(const Pass& pass, double tokens, double micro, const Tensor& sums);
  BranchStatistics statistics_of(size_t layer, const Tensor& sums, double micro_tokens) const;
  /// After the forward: adds the activation loss of all tensor ranks to the sums.
  void add_activation(const Pass& pass, const Tensor& sums);

  // model/vocabulary.cpp: embedding and head, cut over the tensor ranks by rows of the vocabulary.
  void embed(const Pass& pass, const Tensor& ids, const Tensor& h);  ///< h: this rank's rows
  void embed_backward(const Pass& pass, const Tensor& ids, const Tensor& dh);
  /// Losses of the final hidden states y, this rank's rows, against the targets of all tokens; with dy also
  /// the gradient of y and the head's. `op` brings scales and results.
  void head_loss(const Pass& pass, const Tensor& y, HeadLoss op, const Tensor& dy = {});
  /// logits f32 [n, V], whole on every tensor rank, of y [n, D], equal on every tensor rank.
  void logits_of(const Pass& pass, const Tensor& y, const Tensor& logits);

 private:
  struct Kept {
    Tensor h_in;  ///< for recomputing a layer: the residual stream that entered it
  };
  std::vector<Kept> kept_;
};

}  // namespace jambalaya
