// The whole model in float64, forward alone, document by document and token by token as the papers write it:
// no packing, no chunks, no fused loss. Shares no code with the model; tests take central differences of it.
#pragma once
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "model/config.h"

namespace jambalaya::reference {

using Vector = std::vector<double>;
using Rows = std::vector<Vector>;  // one vector a token

struct Losses {
  double nll = 0, head_z = 0, aux = 0, router_z = 0, activation = 0;
};

class JambaReference {
 public:
  JambaReference(const ModelConfig& config, std::map<std::string, Vector> weights)
      : c_(config), w_(std::move(weights)) {}
  std::map<std::string, Vector>& weights() { return w_; }

  Losses losses(const std::vector<int32_t>& ids, const std::vector<int32_t>& targets,
                const std::vector<int64_t>& lengths) {
    Losses out;
    Rows h;
    const size_t d = size_t(c_.hidden_size);
    const Vector& table = w_.at("embed_tokens.weight");
    for (int32_t id : ids)
      h.emplace_back(table.begin() + long(size_t(id) * d), table.begin() + long(size_t(id + 1) * d));
    chosen_.clear(), probability_.clear();
    const std::vector<LayerKind> kinds = layer_kinds(c_);
    for (size_t i = 0; i < kinds.size(); i++) {
      prefix_ = "layers." + std::to_string(i) + ".";
      Rows x = normed(h, prefix_ + "input_layernorm.weight"), y;
      size_t at = 0;
      for (int64_t length : lengths) {
        const Rows document(x.begin() + long(at), x.begin() + long(at + size_t(length)));
        for (Vector& row : kinds[i].mixer == Mixer::mamba ? mamba(document) : attention(document))
          y.push_back(std::move(row));
        at += size_t(length);
      }
      add_branch(h, y, out);
      x = normed(h, prefix_ + "pre_ff_layernorm.weight");
      y = kinds[i].channel == Channel::moe ? experts(x, out) : dense(x);
      add_branch(h, y, out);
    }
    balance(ids.size(), out);
    const Rows y = normed(h, "final_layernorm.weight");
    for (size_t t = 0; t < ids.size(); t++) {
      if (targets[t] < 0) continue;
      const Vector logits =
          product(w_.at(c_.tie_word_embeddings ? "embed_tokens.weight" : "lm_head.weight"), y[t]);
      const double lse = logsumexp(logits);
      out.nll += lse - logits[size_t(targets[t])];
      out.head_z += lse * lse;
    }
    return out;
  }

 private:
  static Vector product(const Vector& w, const Vector& x, size_t first = 0, size_t rows = 0) {
    rows = rows ? rows : w.size() / x.size();
    Vector y(rows, 0.0);
    for (size_t i = 0; i < rows; i++)
      for (size_t j = 0; j < x.size(); j++) y[i] += w[(first + i) * x.size() + j] * x[j];
    return y;
  }
  const Vector& weight(const char* name) const { return w_.at(prefix_ + name); }
  bool has(const char* name) const { return w_.count(prefix_ + name) > 0; }
  static double logsumexp(const Vector& x) {
    double sum = 0, top = *std::max_element(x.begin(), x.end());
    for (double v : x) sum += std::exp(v - top);
    return top + std::log(sum);
  }
  static double silu(double x) { return x / (1 + std::exp(-x)); }
  Vector normed(const Vector& x, const Vector& g) const {
    double mean = 0;
    for (double v : x) mean += v * v / double(x.size());
    Vector y(x);
    for (size_t i = 0; i < x.size(); i++) y[i] *= g[i] / std::sqrt(mean + c_.rms_norm_eps);
    return y;
  }
  Rows normed(const Rows& x, const std::string& name) const {
    Rows y;
    for (const Vector& row : x) y.push_back(normed(row, w_.at(name)));
    return y;
  }
  void add_branch(Rows& h, const Rows& y, Losses& out) const {
    for (size_t t = 0; t < h.size(); t++)
      for (size_t i = 0; i < h[t].size(); i++) {
        h[t][i] += y[t][i];
        out.activation += y[t][i] * y[t][i] / double(h.size() * h[t].size());
      }
  }

  Rows mamba(const Rows& x) const {
    const size_t e = size_t(c_.inner_size()), n = size_t(c_.mamba_d_state), r = size_t(c_.dt_rank()),
                 width = size_t(c_.mamba_d_conv);
    Rows out, history;
    Rows state(e, Vector(n, 0.0));
    const Vector &a_log = weight("mamba.A_log"), &taps = weight("mamba.conv1d.weight"),
                 &skip = weight("mamba.D"), &dt_bias = weight("mamba.dt_proj.bias");
    const Vector conv_bias = has("mamba.conv1d.bias") ? weight("mamba.conv1d.bias") : Vector(e, 0.0);
    const Vector in_bias = has("mamba.in_proj.bias") ? weight("mamba.in_proj.bias") : Vector(2 * e, 0.0);
    const Vector out_bias =
        has("mamba.out_proj.bias") ? weight("mamba.out_proj.bias") : Vector(x.empty() ? 0 : x[0].size(), 0.0);
    for (size_t t = 0; t < x.size(); t++) {
      Vector xz = product(weight("mamba.in_proj.weight"), x[t]);
      for (size_t i = 0; i < 2 * e; i++) xz[i] += in_bias[i];
      history.emplace_back(xz.begin(), xz.begin() + long(e));
      Vector u(e), y(e);
      for (size_t i = 0; i < e; i++) {
        double v = conv_bias[i];
        for (size_t back = 0; back < width && back <= t; back++)
          v += taps[i * width + width - 1 - back] * history[t - back][i];
        u[i] = silu(v);
      }
      const Vector p = product(weight("mamba.x_proj.weight"), u);
      Vector dt(p.begin(), p.begin() + long(r)), b(p.begin() + long(r), p.begin() + long(r + n)),
          c(p.begin() + long(r + n), p.end());
      if (has("mamba.dt_layernorm.weight")) dt = normed(dt, weight("mamba.dt_layernorm.weight"));
      if (has("mamba.b_layernorm.weight")) b = normed(b, weight("mamba.b_layernorm.weight"));
      if (has("mamba.c_layernorm.weight")) c = normed(c, weight("mamba.c_layernorm.weight"));
      const Vector s = product(weight("mamba.dt_proj.weight"), dt);
      for (size_t i = 0; i < e; i++) {
        const double delta = std::log1p(std::exp(s[i] + dt_bias[i]));
        double sum = skip[i] * u[i];
        for (size_t k = 0; k < n; k++) {
          state[i][k] = std::exp(-delta * std::exp(a_log[i * n + k])) * state[i][k] + delta * b[k] * u[i];
          sum += c[k] * state[i][k];
        }
        y[i] = sum * silu(xz[e + i]);
      }
      out.push_back(product(weight("mamba.out_proj.weight"), y));
      for (size_t i = 0; i < out_bias.size(); i++) out.back()[i] += out_bias[i];
    }
    return out;
  }

  /// Turns the pair (i, i + C/2) of every head by position / theta^(2 i / C).
  void rotate(Vector& x, size_t position) const {
    const size_t size = size_t(c_.head_size()), half = size / 2;
    if (c_.rope_theta == 0) return;
    for (size_t head = 0; head < x.size(); head += size)
      for (size_t i = 0; i < half; i++) {
        const double angle = double(position) * std::pow(c_.rope_theta, -2.0 * double(i) / double(size));
        const double a = x[head + i], b = x[head + i + half];
        x[head + i] = a * std::cos(angle) - b * std::sin(angle);
        x[head + i + half] = b * std::cos(angle) + a * std::sin(angle);
      }
  }
  Rows attention(const Rows& x) const {
    const size_t heads = size_t(c_.num_attention_heads), shared = heads / size_t(c_.num_key_value_heads),
                 size = size_t(c_.head_size());
    Rows keys, values, out;
    for (size_t t = 0; t < x.size(); t++) {
      Vector q = product(weight("self_attn.q_proj.weight"), x[t]);
      keys.push_back(product(weight("self_attn.k_proj.weight"), x[t]));
      values.push_back(product(weight("self_attn.v_proj.weight"), x[t]));
      rotate(q, t);
      rotate(keys.back(), t);
      Vector o(heads * size, 0.0);
      for (size_t head = 0; head < heads; head++) {
        const size_t group = head / shared * size;
        Vector score(t + 1, 0.0);
        for (size_t k = 0; k <= t; k++)
          for (size_t i = 0; i < size; i++)
            score[k] += q[head * size + i] * keys[k][group + i] / std::sqrt(double(size));
        const double lse = logsumexp(score);
        for (size_t k = 0; k <= t; k++)
          for (size_t i = 0; i < size; i++)
            o[head * size + i] += std::exp(score[k] - lse) * values[k][group + i];
      }
      out.push_back(product(weight("self_attn.o_proj.weight"), o));
    }
    return out;
  }

  Vector swiglu(const Vector& gate_up, const Vector& down, const Vector& x, size_t expert) const {
    const size_t f = size_t(c_.intermediate_size), d = x.size();
    Vector h = product(gate_up, x, expert * 2 * f, 2 * f);
    for (size_t i = 0; i < f; i++) h[i] = silu(h[i]) * h[f + i];
    h.resize(f);
    return product(down, h, expert * d, d);
  }
  Rows dense(const Rows& x) const {
    Rows out;
    for (const Vector& row : x)
      out.push_back(swiglu(weight("feed_forward.gate_up_proj.weight"),
                           weight("feed_forward.down_proj.weight"), row, 0));
    return out;
  }
  Rows experts(const Rows& x, Losses& losses) {
    const size_t count = size_t(c_.num_experts), k = size_t(c_.num_experts_per_tok);
    Rows out;
    Vector chosen(count, 0.0), probability(count, 0.0);
    for (const Vector& row : x) {
      Vector p = product(weight("feed_forward.router.weight"), row);
      const double lse = logsumexp(p);
      losses.router_z += lse * lse / double(x.size());
      std::vector<size_t> order;
      double total = 0;
      for (size_t e = 0; e < count; e++)
        order.push_back(e), p[e] = std::exp(p[e] - lse), probability[e] += p[e];
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
      for (size_t i = 0; i < k; i++) total += p[order[i]];
      Vector y(row.size(), 0.0);
      for (size_t i = 0; i < k; i++) {
        const size_t e = order[i];
        const Vector part = swiglu(weight("feed_forward.experts.gate_up_proj"),
                                   weight("feed_forward.experts.down_proj"), row, e);
        for (size_t j = 0; j < y.size(); j++) y[j] += p[e] / (c_.router_renormalize ? total : 1.0) * part[j];
        chosen[e]++;
      }
      out.push_back(std::move(y));
    }
    chosen_.push_back(chosen);
    probability_.push_back(probability);
    return out;
  }
  /// X sum_x F[x] P[x], F and P the shares over all layers together or over one layer at a time.
  void balance(size_t tokens, Losses& out) const {
    const size_t layers = chosen_.size(), count = size_t(c_.num_experts);
    if (layers == 0) return;
    out.router_z /= double(layers);
    const double rows = double(tokens);
    for (size_t e = 0; e < count; e++) {
      double f = 0, p = 0;
      for (size_t l = 0; l < layers; l++) {
        f += chosen_[l][e] / rows / double(layers), p += probability_[l][e] / rows / double(layers);
        if (c_.aux_mode != AuxMode::hf_global)
          out.aux += double(count) / double(layers) * chosen_[l][e] / rows * probability_[l][e] / rows;
      }
      if (c_.aux_mode == AuxMode::hf_global) out.aux += double(count) * f * p;
    }
    if (c_.aux_mode == AuxMode::megablocks) out.aux /= double(c_.num_experts_per_tok);
  }

  ModelConfig c_;
  std::map<std::string, Vector> w_;
  std::string prefix_;
  std::vector<Vector> chosen_, probability_;  // per expert layer: choices, sums of probabilities
};

}  // namespace jambalaya::reference
