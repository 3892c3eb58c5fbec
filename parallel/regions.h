// How tensors move between ranks, as conjugate pairs: each region has a forward and the backward that mirrors
// it (docs/architecture.md). The model calls them at the same places under every layout; on one tensor rank
// they do nothing.
#pragma once
#include "kernels/context.h"
#include "kernels/tensor.h"
#include "parallel/mesh.h"

namespace jambalaya {

class Regions {
 public:
  explicit Regions(Mesh& mesh) : mesh_(mesh) {}
  Mesh& mesh() { return mesh_; }

  /// Into a tensor-parallel part (column-cut products follow): forward keeps x, backward sums its gradient.
  Tensor enter(Context&, Tensor x) { return x; }
  Tensor enter_backward(Context&, Tensor dx) { return dx; }
  /// Out of it (after a row-cut product): forward sums the partial y, backward keeps dy.
  Tensor leave(Context&, Tensor y) { return y; }
  Tensor leave_backward(Context&, Tensor dy) { return dy; }
  /// Between x_proj and the norms inside Mamba: p [T, R+2N] f32 is summed before the norms, and dp before
  /// their backward; without it every rank would train another architecture.
  void sum_inner(Context&, Tensor /*p*/) {}
  void sum_inner_backward(Context&, Tensor /*d_normed*/) {}

  /// Sums over all ranks that see other tokens of the same micro-batch (balance loss: counts, probabilities).
  void sum_over_tokens(Context&, Tensor x) {
    if (mesh_.data().size() > 1) mesh_.data().all_reduce(x);
  }

 private:
  Mesh& mesh_;
};

}  // namespace jambalaya
