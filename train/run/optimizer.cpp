#include "train/run/optimizer.h"

#include <algorithm>
#include <cmath>

namespace jambalaya {

Optimizer::Optimizer(Parameters& parameters, const OptimizerSection& settings)
    : parameters_(parameters), settings_(settings) {
  const int64_t n = parameters.flat_size();
  arena_ = std::make_unique<Arena>("optimizer", 8 * n + (1 << 20));
  m_ = arena_->tensor(DType::f32, {n}, "first moments");
  v_ = arena_->tensor(DType::f32, {n}, "second moments");
  grad_scale_ = arena_->tensor(DType::f32, {2}, "clip factor");
  squares_ = arena_->tensor(DType::f64, {2}, "gradient norm");
  const auto& table = parameters.table();
  for (size_t i = 0; i < table.size(); i++) {
    const ParameterRow& row = table[i];
    double factor = row.name.ends_with(".A_log") ? settings.lr_a_log
                    : row.name.ends_with(".D")   ? settings.lr_d
                                                 : 1.0;
    Segment s{parameters.offset(int(i)), i + 1 < table.size() ? parameters.offset(int(i) + 1) : n,
              row.decay ? settings.weight_decay : 0.0, factor};
    if (!segments_.empty() && segments_.back().decay == s.decay && segments_.back().lr_factor == s.lr_factor)
      segments_.back().end = s.end;
    else
      segments_.push_back(s);
  }
}

Tensor Optimizer::like(int row, const Tensor& flat) const {
  Tensor t = parameters_.master(row);
  t.data = flat.address(parameters_.offset(row));
  return t;
}

double Optimizer::gradient_norm(Context& ctx) {
  double* squares = squares_.ptr<double>();
  squares[0] = squares[1] = 0;
  ctx.ops->sum_squares(ctx, {.x = parameters_.flat_gradient(), .out = squares_});
  return std::sqrt(squares[0]);
}

void Optimizer::step(Context& ctx, double lr, double norm) {
  float* scale = grad_scale_.ptr<float>();
  scale[0] = settings_.clip > 0 ? float(std::min(1.0, settings_.clip / (norm + 1e-6))) : 1.0f;
  scale[1] = 0;
  steps_++;
  const Tensor param = parameters_.flat_master(), grad = parameters_.flat_gradient(),
               compute = parameters_.flat_compute();
  for (const Segment& s : segments_)
    ctx.ops->adamw(ctx, {.param = param.slice_rows(s.begin, s.end),
                         .m = m_.slice_rows(s.begin, s.end),
                         .v = v_.slice_rows(s.begin, s.end),
                         .grad = grad.slice_rows(s.begin, s.end),
                         .compute = compute ? compute.slice_rows(s.begin, s.end) : Tensor{},
                         .grad_scale = grad_scale_,
                         .lr = float(lr * s.lr_factor),
                         .beta1 = float(settings_.beta1),
                         .beta2 = float(settings_.beta2),
                         .eps = float(settings_.eps),
                         .decay = float(s.decay),
                         .step = steps_});
}

}  // namespace jambalaya
