// AdamW over what a rank owns of the parameters: one optimizer, one step counter, groups read from the
// parameter table.
#pragma once
#include <memory>
#include <vector>

#include "kernels/ops.h"
#include "model/parameters.h"
#include "parallel/communicator.h"
#include "train/config.h"

namespace jambalaya {

class Optimizer {
 public:
  Optimizer(Parameters& parameters, const OptimizerSection& settings);

  /// Adds this rank's share of the squared norm of the gradients of all ranks (after their reduction) to
  /// out[0] of f64 [2], which starts at zero; fixed order, NaN when any gradient is. Enqueued.
  void sum_squares(Context& ctx, const Tensor& out);
  /// The norm from the ranks' shares. Collective.
  static double norm_of(double share, Communicator& world);
  /// Both at once. Waits for the device.
  double gradient_norm(Context& ctx, Communicator& world);
  /// One update at `lr` with gradients scaled so that their norm is at most settings.clip:
  /// factor = min(1, clip / (norm + 1e-6)).
  void step(Context& ctx, double lr, double norm);

  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }
  /// Flat f32 [owned_size], in the places of the owned masters.
  Tensor first_moments() const { return m_; }
  Tensor second_moments() const { return v_; }

 private:
  /// Neighbouring owned ranges that are updated alike.
  struct Segment {
    int part;  ///< of its last element
    int64_t begin, end;
    double decay, lr_factor;
  };
  /// A range of owned gradients of which each element counts once in the norm, though `holders` ranks own it.
  struct Holding {
    int64_t begin, end;
    int holders;
  };

  Parameters& parameters_;
  OptimizerSection settings_;
  std::unique_ptr<Arena> arena_;
  Tensor m_, v_, grad_scale_, squares_;
  std::vector<Segment> segments_;
  std::vector<Holding> holdings_;
  int64_t steps_ = 0;
};

}  // namespace jambalaya
