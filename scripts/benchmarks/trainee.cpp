#include "scripts/benchmarks/trainee.h"

#include <algorithm>
#include <cmath>

#include "kernels/philox.h"

namespace jambalaya::bench {

Trainee::Trainee(BenchDevice& device, const ModelConfig& config, Precision precision, uint64_t seed)
    : device_(device),
      mesh_(make_single_communicator(), Layout{}),
      regions_(mesh_),
      parameters_(config, precision, true, {}, device.context().accelerator),
      jamba_(parameters_, regions_),
      state_("optimizer", parameters_.flat_size() * 8 + (1 << 20), device.context().accelerator) {
  Context& ctx = device_.context();
  parameters_.initialize(seed, ctx.pool);
  parameters_.refresh_compute(ctx);
  m_ = state_.tensor(DType::f32, {parameters_.flat_size()}, "first moment");
  v_ = state_.tensor(DType::f32, {parameters_.flat_size()}, "second moment");
  readings_ = state_.tensor(DType::f64, {kLossSums + 2}, "loss sums, gradient norm");
  grad_scale_ = state_.tensor(DType::f32, {2}, "gradient scale");
  clear(ctx, m_);
  clear(ctx, v_);
  synchronize(ctx);
}

Trainee::Report Trainee::step(const std::vector<int64_t>& lengths, int64_t step) {
  Context& ctx = device_.context();
  Text& text = texts_[step % 2];
  text.documents.assign(lengths);
  text.ids.clear(), text.targets.clear();
  int64_t counted = 0;
  // A sequence with something to learn: the next id depends on the last one, and on chance.
  const uint64_t key = hash_name(uint64_t(step), "text");
  const auto vocabulary = uint64_t(parameters_.config().vocab_size);
  for (int64_t length : lengths)
    for (int64_t i = 0; i < length; i++) {
      const double chance = double(uniform_at(key, text.ids.size()));
      const uint64_t last = i ? uint64_t(text.ids.back()) : 1;
      text.ids.push_back(
          int32_t(chance < 0.7 ? (last * 31 + 7) % vocabulary : uint64_t(chance * double(vocabulary))));
      if (i) text.targets.back() = text.ids.back(), counted++;
      text.targets.push_back(-100);
    }
  const auto tokens = int64_t(text.ids.size());
  ArenaScope scope(*ctx.scratch);
  const Batch batch{to_device(ctx, text.ids, *ctx.scratch, "ids"),
                    to_device(ctx, text.targets, *ctx.scratch, "targets"), text.documents.view()};
  clear(ctx, readings_);
  parameters_.zero_gradients(ctx);
  jamba_.train(ctx, batch, {1.0 / double(counted), 1, double(tokens)}, readings_.slice_rows(0, kLossSums));
  const Tensor param = parameters_.owned_master(), grad = parameters_.owned_gradient();
  ctx.ops->sum_squares(ctx, {.x = grad, .out = readings_.slice_rows(kLossSums, kLossSums + 2)});
  const std::vector<double> readings = to_host<double>(ctx, readings_);
  const Report report{readings[kNll] / double(counted), std::sqrt(readings[kLossSums])};
  const float scale[2] = {float(std::min(1.0, 1 / (report.gradient_norm + 1e-6))), 0};
  copy(ctx, make_tensor(const_cast<float*>(scale), {2}), grad_scale_);
  for (size_t i = 0; i < parameters_.parts().size(); i++) {
    const Part& part = parameters_.parts()[i];
    const int64_t begin = part.owned, end = begin + part.owned_size();
    ctx.ops->adamw(ctx, {.param = param.slice_rows(begin, end),
                         .m = m_.slice_rows(begin, end),
                         .v = v_.slice_rows(begin, end),
                         .grad = grad.slice_rows(begin, end),
                         .compute = parameters_.owned_compute(int(i)),
                         .grad_scale = grad_scale_,
                         .lr = 1e-3f,
                         .step = step + 1});
  }
  return report;
}

uint64_t Trainee::fingerprint() {
  uint64_t hash = 0xcbf29ce484222325ull;  // FNV-1a over words
  const Tensor all = parameters_.owned_master();
  for (float x : to_host<float>(device_.context(), all)) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    hash = (hash ^ bits) * 0x100000001b3ull;
  }
  return hash;
}

}  // namespace jambalaya::bench
