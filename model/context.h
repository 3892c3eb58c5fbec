// What crosses the borders of context shards inside a Mamba layer: the convolution's last inputs and the
// scan's state. (Attention's keys and values: ring_attention.h.) Legend: T tokens of this shard, E inner
// channels, N states, W conv width.
#pragma once
#include "model/pass.h"

namespace jambalaya {

/// halo f32 [1, W-1, E] <- inputs of the convolution just left of this shard, oldest first; they may lie on
/// several ranks. Zero before the document's start. x [T, E] act.
void halo_from_left(const Pass& pass, const Tensor& x, const Tensor& halo);
/// Adds to dx [T, E] what the shards on the right found for this shard's inputs. d_halo f32 [1, W-1, E]: the
/// gradient of halo_from_left's result.
void halo_backward(const Pass& pass, const Tensor& d_halo, const Tensor& dx);

/// The scan's state from rank to rank without waiting for anyone's scan: every rank reduces its shard to the
/// affine map h -> decay h + state, all maps are gathered, and each rank composes those on its left:
/// h_in(r+1) = decay(r) h_in(r) + state(r). The maps compose associatively (Blelloch 1990; Mamba, section
/// 3.3.2), so the order of work does not matter to the result.
struct StateCarry {
  Tensor maps;  ///< f32 [ranks, 2, N, E]: state and decay of every shard
  Tensor h_in;  ///< f32 [1, N, E]: the state that enters this shard's first segment

  /// Fills both, in the saved arena.
  void from_left(const Pass& pass, const ScanCarryForward& summary);
  /// The gradient that arrives at this shard's last state, f32 [1, N, E], in scratch:
  /// g(r) = decay(r+1) g(r+1) + dh0(r+1).
  Tensor from_right(const Pass& pass, const ScanCarryBackward& summary) const;
};

}  // namespace jambalaya
