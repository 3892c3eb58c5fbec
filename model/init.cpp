// Starting values: value = f(seed, tensor name, global element index), whatever rank asks, on whatever
// device.
#include <algorithm>
#include <cmath>

#include "kernels/normal.h"
#include "kernels/philox.h"
#include "model/table.h"

namespace jambalaya {

namespace {

void fill_normal(uint64_t key, double std, int64_t begin, int64_t end, float* out) {
  double block[4];
  for (int64_t i = begin; i < end;) {
    portable::normal_block(key, uint64_t(i / 4), block);
    for (int64_t lane = i % 4; lane < 4 && i < end; lane++, i++) *out++ = float(block[lane] * std);
  }
}

void fill_uniform(uint64_t key, double bound, int64_t begin, int64_t end, float* out) {
  for (int64_t i = begin; i < end; i++)
    *out++ = float((2.0 * double(uniform_at(key, uint64_t(i))) - 1.0) * bound);
}

/// Step sizes log-uniform in [dt_min, dt_max], floored, through the inverse of softplus (state-spaces/mamba).
void fill_dt_bias(const ModelConfig& m, uint64_t key, int64_t begin, int64_t end, float* out) {
  double low = portable::log(m.dt_min), high = portable::log(m.dt_max);
  for (int64_t i = begin; i < end; i++) {
    double dt =
        std::max(portable::exp(low + double(uniform_at(key, uint64_t(i))) * (high - low)), m.dt_floor);
    *out++ = float(dt + portable::log(-portable::expm1(-dt)));
  }
}

}  // namespace

void initial_values(const ModelConfig& m, const ParameterRow& row, uint64_t seed, int64_t begin, int64_t end,
                    float* out) {
  uint64_t key = hash_name(seed, row.name);
  bool hf = m.init_scheme == InitScheme::hf;
  double depth = std::sqrt(2.0 * double(m.num_hidden_layers));  // two branches a layer
  double fan_bound = 1.0 / std::sqrt(double(row.fan_in));
  float* const first = out;
  switch (row.init) {
    case Init::ones:
      std::fill(out, out + (end - begin), 1.0f);
      break;
    case Init::zeros:
      std::fill(out, out + (end - begin), 0.0f);
      break;
    case Init::normal:
      fill_normal(key, m.initializer_range, begin, end, out);
      break;
    case Init::normal_scaled:
      fill_normal(key, m.initializer_range / (hf ? 1.0 : depth), begin, end, out);
      break;
    case Init::a_log:
      for (int64_t i = begin; i < end; i++) *out++ = float(portable::log(double(i % row.shape[1] + 1)));
      break;
    case Init::dt_weight:
    case Init::conv:
      // Hugging Face starts matrices from N(0, 0.02) and every bias at zero.
      if (!hf)
        fill_uniform(key, fan_bound, begin, end, out);
      else if (row.shape.size() == 1)
        std::fill(out, out + (end - begin), 0.0f);
      else
        fill_normal(key, m.initializer_range, begin, end, out);
      break;
    case Init::dt_bias:
      if (hf)
        std::fill(out, out + (end - begin), 0.0f);
      else
        fill_dt_bias(m, key, begin, end, out);
      break;
  }
  if (row.name == "embed_tokens.weight" && m.pad_token_id >= 0) {  // the padding row is zero and stays so
    int64_t d = row.shape[1], low = std::max(begin, m.pad_token_id * d),
            high = std::min(end, (m.pad_token_id + 1) * d);
    if (low < high) std::fill(first + (low - begin), first + (high - begin), 0.0f);
  }
}

}  // namespace jambalaya
