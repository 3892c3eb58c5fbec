// Products of the experts in one kernel each, rows per expert read on the device: what the bf16 and the f32
// kernels share. Every product is C[M, N] = sum over p of A(m, p) B(p, n), cut into tiles of C, one a block:
//   forward          C = y [rows, n], A = a [rows, k],   B = w[x]^T (k as it lies), p over k
//   input gradient   C = y [rows, k], A = a [rows, n],   B = w[x],                  p over n
//   weight gradient  C = w[x] [n, k], A = a^T,           B = y,                     p over the expert's rows
// Every element is one chain of additions in the order of p, whatever tile it lies in: how many rows came to
// an expert changes no other row's bits.
#pragma once
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.h"
#include "kernels/ops.h"

namespace jambalaya::cuda {

using ExpertKind = GroupedGemm::Kind;

constexpr int kExpertTile = 128;  ///< rows and columns of a tile of C
constexpr int kExpertBand = 16;   ///< tiles: blocks that run together share 16 panels of A and of B

/// A call, as the kernels see it. Strides are in elements.
struct ExpertProducts {
  const void *a, *b;
  void* c;
  int64_t a_stride, b_stride, c_stride;
  int64_t expert_stride;   ///< from one expert's w to the next
  const int32_t* offsets;  ///< [X + 1], on the device
  int experts;
  int64_t m, n, p;           ///< m: weight gradient alone; p: the others
  int64_t m_tiles, n_tiles;  ///< m_tiles: the most there can be of all experts; weight gradient: of one
  bool accumulate;
  bool pairs;  ///< two neighbouring elements of C are one access
};
/// Shapes checked by the caller.
ExpertProducts expert_products(const GroupedGemm& op);
void start_experts_bf16(const Context& ctx, const GroupedGemm& op);
void start_experts_f32(const Context& ctx, const GroupedGemm& op);

/// start.operator()<Kind, C>(): C the type of the call's results.
template <class Start>
void with_expert_types(const GroupedGemm& op, const Start& start) {
  auto of_kind = [&]<ExpertKind Kind>() {
    op.y.dtype == DType::bf16 ? start.template operator()<Kind, bf16>()
                              : start.template operator()<Kind, float>();
  };
  switch (op.kind) {
    case ExpertKind::forward:
      return of_kind.template operator()<ExpertKind::forward>();
    case ExpertKind::input_gradient:
      return of_kind.template operator()<ExpertKind::input_gradient>();
    case ExpertKind::weight_gradient:
      return start.template operator()<ExpertKind::weight_gradient, float>();
  }
}

/// Blocks of the whole call, and of one expert's weight gradient.
inline int64_t expert_blocks(const GroupedGemm& op, const ExpertProducts& g) {
  return g.m_tiles * g.n_tiles * (op.kind == ExpertKind::weight_gradient ? g.experts : 1);
}

/// Where a block works: offsets of its tile's first elements, and how much of the tile there is.
struct ExpertTile {
  int64_t a, b, c, p;
  int m, n;
};

/// Tile `id` of m_tiles x n_tiles: bands of kExpertBand tiles of M, in which M goes fastest.
__device__ __forceinline__ void place_in_bands(int64_t id, int64_t m_tiles, int64_t n_tiles, int64_t& m,
                                               int64_t& n) {
  const int64_t band = id / (kExpertBand * n_tiles), first = band * kExpertBand,
                height = m_tiles - first < kExpertBand ? m_tiles - first : kExpertBand,
                within = id - first * n_tiles;
  m = first + within % height;
  n = within / height;
}

/// The expert of row tile `tile`, where expert x has ceil(rows / kExpertTile) of them: `tile` becomes the
/// tile's number in its expert. -1 past the last. By whole warps: 32 experts at a time.
__device__ __forceinline__ int expert_of_tile(const int32_t* offsets, int experts, int64_t& tile) {
  const int lane = threadIdx.x % 32;
  for (int first = 0; first < experts; first += 32) {
    const int x = first + lane;
    const int rows = x < experts ? offsets[x + 1] - offsets[x] : 0;
    const int tiles = (rows + kExpertTile - 1) / kExpertTile;
    int end = tiles;  // of this expert's tiles, counted from `first`
    for (int step = 1; step < 32; step *= 2) {
      const int below = __shfl_up_sync(kAllLanes, end, step);
      if (lane >= step) end += below;
    }
    const unsigned after = __ballot_sync(kAllLanes, end > tile);
    if (after) {
      const int found = __ffs(int(after)) - 1;
      tile -= __shfl_sync(kAllLanes, end - tiles, found);
      return first + found;
    }
    tile -= __shfl_sync(kAllLanes, end, 31);
  }
  return -1;
}

/// This block's tile; false where there is none.
template <ExpertKind Kind>
__device__ __forceinline__ bool find_expert_tile(const ExpertProducts& g, ExpertTile& t) {
  int64_t id = blockIdx.x, row_tile, column_tile;
  int x = 0;
  if (Kind == ExpertKind::weight_gradient) {
    x = int(id / (g.m_tiles * g.n_tiles));
    id %= g.m_tiles * g.n_tiles;
  }
  place_in_bands(id, g.m_tiles, g.n_tiles, row_tile, column_tile);
  if (Kind != ExpertKind::weight_gradient) x = expert_of_tile(g.offsets, g.experts, row_tile);
  if (x < 0) return false;
  const int64_t begin = g.offsets[x], rows = g.offsets[x + 1] - begin, row = row_tile * kExpertTile,
                column = column_tile * kExpertTile;
  auto tile_length = [](int64_t left) { return int(left < kExpertTile ? left : kExpertTile); };
  t.n = tile_length(g.n - column);
  if (Kind == ExpertKind::weight_gradient) {
    if (rows == 0) return false;
    t.m = tile_length(g.m - row);
    t.p = rows;
    t.a = begin * g.a_stride + row;
    t.b = begin * g.b_stride + column;
    t.c = x * g.expert_stride + row * g.c_stride + column;
  } else {
    t.m = tile_length(rows - row);
    t.p = g.p;
    t.a = (begin + row) * g.a_stride;
    t.b = x * g.expert_stride + (Kind == ExpertKind::forward ? column * g.b_stride : column);
    t.c = (begin + row) * g.c_stride + column;
  }
  return true;
}

}  // namespace jambalaya::cuda
