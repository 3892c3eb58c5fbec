// What the attention kernels share: a call's segments cut into tiles, and the arguments of the kernels.
//
// A tile is some neighbouring tokens (or keys) of one segment. Blocks find the segment of their tile by
// bisection, so that a call sends one record per segment to the device, whatever the number of tokens.
#pragma once
#include <initializer_list>
#include <vector>

#include "kernels/attention_segments.h"
#include "kernels/cuda/launch.h"

namespace jambalaya::cuda {

/// One segment as kernels see it. Its token i sees the key rows first_key + [0, limit(i)).
struct TileSegment {
  int64_t first_token, first_key;
  int32_t first_tile;  ///< among the tiles of all segments
  int32_t tokens;
  int32_t past;  ///< keys before the segment's first token
  int32_t seen;  ///< keys that any token of the segment sees

  __host__ __device__ int limit(int token) const {
    const int own = past + token + 1;
    return own < seen ? own : seen;
  }
};

/// The segments of a call on the device.
struct SegmentTable {
  const TileSegment* segments;
  int32_t count;
  int32_t tiles;  ///< of all segments together
};

/// The segment of a tile; segments without tiles are passed over.
__device__ __forceinline__ TileSegment segment_of_tile(const SegmentTable& table, int tile) {
  int low = 0, high = table.count - 1;  // the last segment with first_tile <= tile
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.segments[middle].first_tile <= tile)
      low = middle;
    else
      high = middle - 1;
  }
  return table.segments[low];
}

/// Rows of a tile of queries: row r of a segment is its token r / together, query head r % together of the
/// `together` heads that the block works on.
struct ForwardArgs {
  const void *q, *k, *v;
  int64_t q_stride, k_stride, v_stride;
  void* o;
  int64_t o_stride;
  float* lse;  ///< may be null
  int64_t lse_stride;
  bool o_f32;
  int head_size;
  int shared;    ///< query heads per key head
  int together;  ///< 1, or `shared`
  float scale2;  ///< scale / ln 2: exponentials are powers of two
  SegmentTable table;
  int keys_per_split;      ///< split z of the grid looks at the keys [z, z + 1) * keys_per_split
  int64_t o_split_stride;  ///< elements of o from split to split
  int64_t lse_split_stride;
};

struct BackwardArgs {
  const void *q, *k, *v, *d_out;
  int64_t q_stride, k_stride, v_stride, d_out_stride;
  const float *lse, *delta;
  int64_t lse_stride, delta_stride;
  void *dq, *dk, *dv;
  int64_t dq_stride, dk_stride, dv_stride;
  bool accumulate;
  int head_size;
  int shared;
  float scale, scale2;
  SegmentTable table;
};

/// Copies the records to scratch. The caller holds an ArenaScope.
SegmentTable send_segments(const Context& ctx, const std::vector<TileSegment>& records, int64_t tiles);
enum class Cut { queries, keys };
/// The segments [first, last) of a call, cut into tiles of `step` rows of queries (tokens times `together`)
/// or of keys.
SegmentTable send_segments(const Context& ctx, const attention::Segments& segments, int64_t first,
                           int64_t last, Cut cut, int64_t step, int64_t together = 1);

/// Throws Error(usage) for a head that no kernel's shared memory can hold.
void check_head_size(int64_t head_size);

// ---- the two families of kernels. Each starts one kernel; shapes have been checked ----

/// fp32 arithmetic on CUDA cores, f32 or bf16 activations, any head size: the exact path.
int general_tile(int64_t head_size);  ///< tokens or keys in a tile
void general_forward(const Context& ctx, const ForwardArgs& args, bool bf16, int64_t heads, int64_t splits);
void general_backward_keys(const Context& ctx, const BackwardArgs& args, bool bf16, int64_t key_heads);
void general_backward_queries(const Context& ctx, const BackwardArgs& args, bool bf16, int64_t heads);

/// Tensor cores: bf16, head sizes that are multiples of 8 up to 256, rows that are multiples of 16 bytes.
bool mma_takes(int64_t head_size, std::initializer_list<Tensor> operands);
int forward_mma_tile(int64_t head_size, int64_t most_rows);  ///< rows in a tile of queries
void forward_mma(const Context& ctx, const ForwardArgs& args, int64_t tile, int64_t heads, int64_t splits);
constexpr int kBackwardMmaTile = 64;  ///< tokens or keys in a tile
void backward_keys_mma(const Context& ctx, const BackwardArgs& args, int64_t key_heads);
void backward_queries_mma(const Context& ctx, const BackwardArgs& args, int64_t heads);

}  // namespace jambalaya::cuda
