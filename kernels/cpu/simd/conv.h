// Vector kernels of the room conv: one table of function pointers per instruction set. A task is a group of
// channels over a range of tokens; channels lie across the lanes.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

namespace {
/// Tokens convolved at a time, from a copy in scratch.
constexpr int64_t kConvTile = 64;
}  // namespace

struct ConvInputs {
  const void* x;
  int64_t x_stride;
  const float *w, *bias;  // [E, W], [E] or null
  const int32_t *offsets, *segment_of;
  const float* left;  // inputs before segments, or null: zero
  int64_t channels, width, segments;
  bool ends_only;  // left, dleft [1, W - 1, E] of the first segment, dtail [1, W - 1, E] of the last; else
                   // [S, ..]
};

/// Channels [e0, e1), tokens [t0, t1).
struct ConvTask {
  int64_t e0, e1, t0, t1;
  float* scratch;  // as many floats as the table says, 64-byte aligned
};

struct ConvForwardArgs {
  ConvInputs in;
  void* u;
  int64_t u_stride;
};

struct ConvBackwardArgs {
  ConvInputs in;
  const void* du;
  int64_t du_stride;
  void* dx;
  int64_t dx_stride;
  float* dleft;        // or null
  const float* dtail;  // or null: zero
};

struct ConvKernels {
  int64_t (*scratch)(int64_t width);  // floats
  void (*forward_f32)(const ConvForwardArgs&, const ConvTask&);
  void (*forward_bf16)(const ConvForwardArgs&, const ConvTask&);
  /// partial [W + 1, E]: sums over the task's tokens for dw (transposed) and, last row, dbias; written at
  /// [e0, e1).
  void (*backward_f32)(const ConvBackwardArgs&, const ConvTask&, float* partial);
  void (*backward_bf16)(const ConvBackwardArgs&, const ConvTask&, float* partial);
  void (*backward_bf16_du_f32)(const ConvBackwardArgs&, const ConvTask&, float* partial);
};

}  // namespace jambalaya
