// What this machine does at its best with the kernels of the product: the measure of a profile.
#pragma once
#include "kernels/context.h"
#include "kernels/tensor.h"
#include "model/config.h"

namespace jambalaya {

/// FLOP/s of one rank, counted as in model/op_flops.h; 0: not measured.
struct Peaks {
  double gemm = 0;       ///< c = a b^T, square
  double scan = 0;       ///< forward and backward, one document
  double attention = 0;  ///< forward and backward, one document
  int64_t gemm_size = 0, scan_tokens = 0, scan_channels = 0, attention_tokens = 0, attention_heads = 0;
};

/// Measures each at a large shape with activations of `act`, in the context's threads or on its device: the
/// best of a few runs. Ranks that share a machine should measure at the same time. Takes memory of its own
/// and gives it back. Not measured: what the model has none of, and all of it on a device with less than 512
/// MiB free.
Peaks measure_peaks(const Context& ctx, const ModelConfig& model, DType act);

}  // namespace jambalaya
