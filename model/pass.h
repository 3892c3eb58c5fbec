// What travels through the layers of one forward or backward pass.
#pragma once
#include "kernels/documents.h"
#include "kernels/ops.h"
#include "model/parameters.h"
#include "parallel/context_shard.h"
#include "parallel/regions.h"

namespace jambalaya {

struct Pass {
  Context& ctx;
  const ModelConfig& config;
  Parameters& parameters;
  Regions& regions;
  Arena& saved;  ///< activations for the backward, last in, first out
  Documents docs;
  bool training;  ///< keep what the backward needs
  const ContextShard* context =
      nullptr;  ///< where this rank's tokens lie in sequences cut over several ranks
  /// Tokens that the mixers see: those of this rank's context shard.
  int64_t tokens() const { return docs.tokens; }
  /// Of them the rows of the residual stream, its norms and the router that lie on this tensor rank.
  int64_t rows() const { return regions.rows(docs.tokens).count(); }
  /// dtype of activations and of the operands of matrix products.
  DType act() const { return parameters.precision() == Precision::bf16 ? DType::bf16 : DType::f32; }
  DType residual() const { return config.residual_fp32 ? DType::f32 : act(); }
  Ops& ops() const { return *ctx.ops; }
  Tensor scratch(DType dtype, std::initializer_list<int64_t> shape, const char* tag) const {
    return ctx.scratch->tensor(dtype, shape, tag);
  }
  Tensor keep(DType dtype, std::initializer_list<int64_t> shape, const char* tag) const {
    return saved.tensor(dtype, shape, tag);
  }
};

// ---- products with a weight row ------------------------------------------------------------------------

/// y = x w^T, w [out, in] the compute copy of `row`.
void linear(const Pass& pass, int row, const Tensor& x, const Tensor& y);
/// dx (=, or += with accumulate) dy w.
void linear_input_gradient(const Pass& pass, int row, const Tensor& dy, const Tensor& dx,
                           bool accumulate = false);
/// dw += dy^T x.
void linear_weight_gradient(const Pass& pass, int row, const Tensor& dy, const Tensor& x);
/// x itself where it has that dtype, else a copy in scratch (the caller holds an ArenaScope).
Tensor as_dtype(const Pass& pass, const Tensor& x, DType dtype, const char* tag);
/// Gradient of a row, or an empty tensor for an absent one (row < 0). Likewise its fp32 value.
Tensor gradient_of(const Pass& pass, int row);
Tensor value_of(const Pass& pass, int row);

}  // namespace jambalaya
