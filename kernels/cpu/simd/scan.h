// Vector kernels of the room scan: one table of function pointers per instruction set.
//
// A task is a group of channels over a range of tokens. Channels lie across the lanes of a vector, states and
// tokens are loops, so there is no sum across lanes in the forward pass. Tokens are walked in tiles of
// kScanTile (positions in the packed stream), cut again at the borders of segments.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

namespace {
constexpr int64_t kScanTile = 64;  // = kScanChunk of the menu
}

/// What both passes read. Pointers to activations are of the act dtype; strides count elements between rows.
struct ScanInputs {
  const void *u, *s, *z;  // z may be null
  int64_t u_stride, s_stride, z_stride;
  const float *b, *c;  // [T, N]
  int64_t b_stride, c_stride;
  const float *a_log, *d, *dt_bias;
  const int32_t *offsets, *segment_of;
  const float* h0;  // start states or null: zero
  int64_t channels, states, segments;
  bool ends_only;  // start states [1, N, E] of the first segment, end states [1, N, E] of the last; else [S,
                   // N, E]
};

/// Channels [e0, e1), tokens [t0, t1).
struct ScanTask {
  int64_t e0, e1, t0, t1;
  float* scratch;  // as many floats as the table says, 64-byte aligned
};

struct ScanForwardArgs {
  ScanInputs in;
  void* o;
  int64_t o_stride;
  float* h_last;       // end states or null
  float* kept_states;  // [ceil(T / kScanTile), N, E] or null
  float* delta_range;  // this task's smallest and largest delta, or null
};

struct ScanBackwardArgs {
  ScanInputs in;
  const void* d_out;
  int64_t d_out_stride;
  const float *kept_states, *dh_last;  // dh_last: end states or null: zero
  void *du, *ds, *dz;                  // dz null with z
  int64_t du_stride, ds_stride, dz_stride;
  float *da_log, *dd, *ddt_bias, *dh0;  // dh0: start states or null
};

/// The backward kernels (scan_backward.simd.cpp). A group's scratch lives through all of its windows.
struct ScanBackwardKernels {
  int64_t (*scratch)(int64_t channels, int64_t states);  // floats
  /// Floats per token of a group's part of db and dc.
  int64_t (*partial_width)(int64_t states);
  /// The adjoint state and the sums of parameter gradients start at 0. (t0 and t1 are not read.)
  void (*begin)(const ScanBackwardArgs&, const ScanTask&);
  /// One window of tokens, t0 a multiple of kScanTile; windows come last to first.
  /// partial [t1 - t0, partial_width], 64-byte aligned: db and dc summed over this group's channels, written.
  void (*f32)(const ScanBackwardArgs&, const ScanTask&, float* partial);
  void (*bf16_all)(const ScanBackwardArgs&, const ScanTask&, float* partial);
  void (*bf16_du_f32)(const ScanBackwardArgs&, const ScanTask&, float* partial);
  /// Adds the group's sums to da_log, dd and ddt_bias.
  void (*end)(const ScanBackwardArgs&, const ScanTask&);
  /// db[t], dc[t] = sums over `groups` partials (group_stride floats apart), in their order, for t in [0,
  /// tokens).
  void (*sum_partials)(const float* partial, int64_t groups, int64_t group_stride, int64_t tokens,
                       int64_t states, float* db, int64_t db_stride, float* dc, int64_t dc_stride);
};

/// What the last segment does to a state, and the gradient that the first one sends back
/// (scan_carry.simd.cpp). Of ScanInputs only what each reads is set; the task's tokens are those of the one
/// segment.
struct ScanCarryForwardArgs {
  ScanInputs in;         // u, s, b
  float *h_end, *decay;  // [N, E]
};
struct ScanCarryBackwardArgs {
  ScanInputs in;  // s, z, c
  const void* d_out;
  int64_t d_out_stride;
  float* dh0;  // [N, E]
};
struct ScanCarryKernels {
  int64_t (*scratch)(int64_t channels, int64_t states);  // floats
  void (*forward_f32)(const ScanCarryForwardArgs&, const ScanTask&);
  void (*forward_bf16)(const ScanCarryForwardArgs&, const ScanTask&);
  void (*backward_f32)(const ScanCarryBackwardArgs&, const ScanTask&);
  void (*backward_bf16)(const ScanCarryBackwardArgs&, const ScanTask&);
};

struct ScanKernels {
  int64_t (*forward_scratch)(int64_t channels, int64_t states);  // floats
  /// Whole segments only: t0 and t1 lie on borders of segments.
  void (*forward_f32)(const ScanForwardArgs&, const ScanTask&);
  void (*forward_bf16)(const ScanForwardArgs&, const ScanTask&);
  const ScanBackwardKernels* backward;
  const ScanCarryKernels* carry;
};

}  // namespace jambalaya
