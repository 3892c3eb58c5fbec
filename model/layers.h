// The mixers and channel mixers of a layer. Each states its arithmetic once, forward and backward; which rank
// holds what is the parameter table's business, how tensors move is that of the regions.
//
// forward(pass, x, y): x [T, D] act (normed), y [T, D] act. Keeps in the saved arena what backward needs.
// backward(pass, x, dy, dx): dy [T, D] act; dx [T, D] f32 or act, written; parameter gradients are added.
// T: this rank's rows of the residual stream (Pass::rows); a mixer sees all tokens of the context shard.
#pragma once
#include <memory>

#include "model/context.h"
#include "model/pass.h"
#include "parallel/exchange.h"

namespace jambalaya {

/// State of one layer of a batch of sequences during generation; empty tensors in training.
struct LayerState {
  Tensor keys, values;  ///< act [S * max_length, G*C]
  Tensor key_begin;     ///< i64 [S] in host memory: s * max_length, first cache row of each sequence
  Tensor conv, ssm;     ///< f32 [S, W-1, E], [S, N, E]
};

/// Row numbers of a layer's tensors in the parameter table; -1 where the config has none.
int find_row(const Parameters& parameters, int layer, const char* name);

class Attention {
 public:
  Attention(const Parameters& parameters, int layer);
  void forward(const Pass& pass, const Tensor& x, const Tensor& y, const LayerState* state = nullptr);
  void backward(const Pass& pass, const Tensor& x, const Tensor& dy, const Tensor& dx);

 private:
  int q_, k_, v_, o_;
  struct Saved {
    Tensor q, k, v, o, lse;
  } saved_;
};

class Mamba {
 public:
  Mamba(const Parameters& parameters, int layer);
  /// Keep only in_proj's and x_proj's outputs; recompute the rest in the backward.
  bool recompute = false;
  Tensor delta_range;  ///< f32 [2], filled by the forward when set (telemetry)
  void forward(const Pass& pass, const Tensor& x, const Tensor& y, const LayerState* state = nullptr);
  void backward(const Pass& pass, const Tensor& x, const Tensor& dy, const Tensor& dx);

 private:
  struct Inner {  // what lies between in_proj and out_proj
    Tensor u, dt, b, c, rstd, s, o, states;
  };
  Inner allocate(const Pass& pass, Arena& arena) const;
  void convolve(const Pass& pass, const Inner& inner, const LayerState* state) const;
  void normalize(const Pass& pass, const Inner& inner) const;
  void scan(const Pass& pass, const Inner& inner, const LayerState* state) const;
  ScanCarryForward summary(const Pass& pass, const Inner& inner) const;
  int64_t channels(const Pass& pass) const { return pass.parameters.value(d_).rows(); }

  int in_, in_bias_, conv_, conv_bias_, x_, dt_norm_, b_norm_, c_norm_, dt_, dt_bias_, a_log_, d_, out_,
      out_bias_;
  struct Saved {
    Tensor xz, p;
    Tensor halo;       ///< of a context shard: f32 [1, W-1, E]
    StateCarry carry;  ///< likewise
    Inner inner;
  } saved_;
};

class DenseMlp {
 public:
  DenseMlp(const Parameters& parameters, int layer);
  void forward(const Pass& pass, const Tensor& x, const Tensor& y);
  void backward(const Pass& pass, const Tensor& x, const Tensor& dy, const Tensor& dx);

 private:
  int gate_up_, down_;
  struct Saved {
    Tensor gate_up;
  } saved_;
};

class Moe {
 public:
  Moe(const Parameters& parameters, int layer);
  Tensor stats;  ///< f32 [2X + 1], written by the forward (see RouterForward)
  Tensor dprob;  ///< optional f32 [X]: gradient of the balance loss, read by the backward
  float z_scale = 0;
  void forward(const Pass& pass, const Tensor& x, const Tensor& y);
  void backward(const Pass& pass, const Tensor& x, const Tensor& dy, const Tensor& dx);

 private:
  void route(const Pass& pass, const Tensor& x);
  void experts_backward(const Pass& pass, const Tensor& in, const Tensor& dout, const Tensor& din);

  int router_, gate_up_, down_;
  struct Saved {
    Tensor probs, expert, weight, lse;
    Tensor row_of, token_of;
    ExpertRoute route;
    Tensor in, gate_up;  ///< per arrived row: [arrived, D] (empty when no row travels), [arrived, 2F]
    Tensor out;          ///< per sorted row: [T*K, D]
  } saved_;
};

}  // namespace jambalaya
