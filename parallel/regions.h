// How tensors move between tensor ranks, as conjugate pairs: each region has a forward and the backward that
// mirrors it (Megatron-LM, Shoeybi et al. 2019; sequence parallelism, Korthikanti et al. 2022). The model
// calls them at the same places under every layout; on one tensor rank they return their argument and nothing
// is copied or sent.
//
// Legend: T tokens of the context shard, D width. Outside of the tensor-parallel parts the residual stream,
// its norms and the router hold T_local rows: with sequence parallelism the T tokens are cut over the tensor
// ranks, without it every tensor rank holds all of them (T_local = T).
#pragma once
#include <vector>

#include "kernels/context.h"
#include "kernels/tensor.h"
#include "parallel/mesh.h"

namespace jambalaya {

/// Entries [begin, end) of something.
struct Span {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
};

class Regions {
 public:
  explicit Regions(Mesh& mesh) : mesh_(mesh) {}
  Mesh& mesh() { return mesh_; }

  int tensors() const { return mesh_.tensor().size(); }
  /// Whether the residual stream is cut over the tensor ranks by rows (sequence parallelism).
  bool splits_rows() const { return tensors() > 1 && mesh_.layout().sequence; }
  /// The share of n things, cut unevenly where they do not divide, of this tensor rank.
  Span share(int64_t n) const { return share_of(n, mesh_.tensor().rank()); }
  /// This rank's rows of the residual stream of `tokens` tokens.
  Span rows(int64_t tokens) const { return splits_rows() ? share(tokens) : Span{0, tokens}; }

  /// Into a tensor-parallel part (column-cut products follow): x [T_local, D] -> [T, D]. What it returns is x
  /// itself or lies in scratch, where the caller holds an ArenaScope.
  Tensor enter(Context& ctx, const Tensor& x, int64_t tokens);
  /// Its mirror: the ranks' partial dx [T, D] are summed into dx [T_local, D].
  void enter_backward(Context& ctx, const Tensor& partial, const Tensor& dx) { sum(ctx, partial, dx); }
  /// Out of it (after a row-cut product): the ranks' partial y [T, D] are summed into y [T_local, D].
  void leave(Context& ctx, const Tensor& partial, const Tensor& y) { sum(ctx, partial, y); }
  /// Its mirror: dy [T_local, D] -> [T, D].
  Tensor leave_backward(Context& ctx, const Tensor& dy, int64_t tokens) { return enter(ctx, dy, tokens); }
  /// Where the product before leave() or enter_backward() writes its [T, D]: `sum` itself unless its rows are
  /// cut, else scratch.
  ///
  /// A partial has the dtype of its sum, on the wire too, and the ranks' partials are added in fp32 and
  /// rounded once: outputs of bf16 models are bf16, gradients of the residual stream fp32. Measured on 8
  /// layers of width 128, 700 tokens: mean relative error of a bf16 model's gradients against fp32 0.0068 on
  /// one rank, 0.0069, 0.0070 and 0.0070 on 2, 4 and 8 tensor ranks; rounding partials costs next to nothing.
  Tensor partial(Context& ctx, const Tensor& sum, int64_t tokens);

  /// Between x_proj and the norms inside Mamba: p [T, R+2N] f32 is summed before the norms, and its gradient
  /// before their backward; without it every rank would train another architecture. One collective each.
  void sum_inner(Context&, const Tensor& p) {
    if (tensors() > 1) mesh_.tensor().all_reduce(p);
  }

  /// The rows of the residual stream that this rank routes to the experts: each row once over the tensor
  /// ranks, whether they hold the same rows or not.
  Span routed(int64_t tokens) const { return splits_rows() ? Span{0, rows(tokens).count()} : share(tokens); }
  /// Where the ranks hold the same rows: what each computed of its routed rows, to all. y [T_local, D].
  void spread_routed(Context& ctx, const Tensor& y);

  /// Sums over all ranks that route other tokens of the same micro-batch, which is every rank of the world
  /// (balance loss: counts, probabilities).
  void sum_over_tokens(Context&, const Tensor& x) {
    if (mesh_.size() > 1) mesh_.world().all_reduce(x);
  }

  /// whole [n, V] <- every rank's part [n, share of V] of the columns; both f32, `whole` on every rank.
  void gather_columns(Context& ctx, const Tensor& part, const Tensor& whole);
  /// Rows of every tensor rank in rank order; rows[r] of rank r. The result lies in scratch, or is x.
  Tensor gather_rows(Context& ctx, const Tensor& x, const std::vector<int64_t>& rows);
  /// The tensor rank that holds token t of `tokens` in its rows of the residual stream.
  int owner_of(int64_t t, int64_t tokens) const;

 private:
  Span share_of(int64_t n, int rank) const { return {n * rank / tensors(), n * (rank + 1) / tensors()}; }
  std::vector<int64_t> shares(int64_t n) const;
  void sum(Context& ctx, const Tensor& partial, const Tensor& sum);

  Mesh& mesh_;
};

}  // namespace jambalaya
