// Vector kernels of the room gemm: one table of function pointers per instruction set.
//
// Packed form. K is cut into 32-bit lanes: one float, or a pair of bf16 for the dot-product instructions.
// Elements past the end of a matrix are zero lanes, so tiles never look at the edges of A and B.
//   B: panels of nr columns, [panel][lane][nr].
//   A: panels of mr rows, [panel][lane][mr], each panel followed by slack (packed_a_panel), because whole
//   vectors are
//      stored. With tiled_a (AMX): [panel][16 lanes][mr][16], the layout of the tile registers.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

/// One block of A or B to pack. `rows` counts rows of A or columns of B.
struct PackBlock {
  const void* source;  ///< element (row, k) is at row * stride + k if k_contiguous, else at k * stride + row
  int64_t stride;
  bool k_contiguous;
  int64_t rows, k;
  int64_t lanes;  ///< of the packed form, >= k / elements per lane; the rest is zero
  float* packed;
};

/// rows x columns of C from packed panels: x = A B (+ c if add); then c = x, or, where out is given,
/// out = bf16(x (+ out if add_out)).
struct GemmBlock {
  const float *a, *b;
  int64_t lanes, rows, columns;
  float* c;
  int64_t c_stride;
  bool add;
  bf16* out;
  int64_t out_stride;
  bool add_out;
};

/// A few rows (at most GemmFormat::kDirectRows), nothing packed: reads B once, as it lies.
struct DirectProduct {
  const void* a;  ///< [m, k]
  int64_t a_stride;
  const void* b;  ///< [n, k] for dot_rows, [k, n] for add_rows
  int64_t b_stride;
  void* c;  ///< f32 or bf16 [m, n]
  int64_t c_stride;
  bool c_bf16, accumulate;
  int64_t m, n, k;
  float* sums;  ///< [m, sums_stride], scratch of add_rows; sums_stride >= n and a multiple of 16
  int64_t sums_stride;
};

/// How matrices of one dtype are multiplied.
struct GemmFormat {
  static constexpr int kDirectRows = 8;
  int mr, nr;              ///< rows and columns of the register tile
  int k_step, step_lanes;  ///< K is padded to whole steps of k_step elements = step_lanes lanes
  bool tiled_a;
  void (*pack_a)(const PackBlock&);
  void (*pack_b)(const PackBlock&);
  void (*block)(const GemmBlock&);
  void (*dot_rows)(const DirectProduct&);  ///< B's rows are contiguous in k
  void (*add_rows)(const DirectProduct&);  ///< B's rows are contiguous in n
};
struct GemmKernels {
  GemmFormat f32, bf16;  ///< by dtype of A and B
};

/// Floats from one packed panel of A to the next.
[[maybe_unused]] static constexpr int64_t packed_a_panel(int64_t lanes, int mr) {
  return (lanes * mr + 2 + 15) / 16 * 16;
}

}  // namespace jambalaya
