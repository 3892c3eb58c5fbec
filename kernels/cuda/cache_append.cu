// Generation's cache of keys and values: one launch copies what all sequences have just said to its places.
// Legend: kernels/ops.h. A warp takes a row; blockIdx.y is 0 for keys, 1 for values.
#include "kernels/cuda/documents_cuda.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/vector.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

constexpr int kRows = 8;  // of a block: one a warp
constexpr int kThreads = 32 * kRows;

/// Strides and width in Units.
template <class Unit>
struct Rows {
  const Unit* from;
  int64_t from_stride;
  Unit* to;
  int64_t to_stride;
};

/// The bits as they are, one Unit an access.
template <class Unit>
__global__ void cache_append_kernel(Rows<Unit> keys, Rows<Unit> values, int64_t width, int64_t tokens,
                                    int64_t room, const int32_t* segment_of, const int32_t* offsets,
                                    const int32_t* first_position) {
  const int64_t t = int64_t(blockIdx.x) * kRows + threadIdx.x / 32;
  if (t >= tokens) return;
  const int64_t s = segment_of[t], row = s * room + first_position[s] + (t - offsets[s]);
  const Rows<Unit> rows = blockIdx.y ? values : keys;
  const Unit* const from = rows.from + t * rows.from_stride;
  Unit* const to = rows.to + row * rows.to_stride;
#pragma unroll 4
  for (int64_t i = threadIdx.x % 32; i < width; i += 32) to[i] = from[i];
}

template <class Unit>
void start(const Context& ctx, const CacheAppend& op, const Documents& docs) {
  const int64_t units = int64_t(sizeof(Unit)) / size_of(op.keys.dtype);  // elements of one
  auto rows = [units](const Tensor& from, const Tensor& to) {
    return Rows<Unit>{static_cast<const Unit*>(from.data), from.row_stride / units,
                      static_cast<Unit*>(to.data), to.row_stride / units};
  };
  dim3 grid = grid_of(div_up(docs.tokens, kRows));
  grid.y = 2;
  launch(ctx, "cache_append", cache_append_kernel<Unit>, {grid, kThreads}, rows(op.keys, op.key_cache),
         rows(op.values, op.value_cache), op.keys.columns() / units, docs.tokens,
         op.key_cache.rows() / docs.count, docs.device_segment_of, docs.device_offsets,
         docs.device_first_position);
}

}  // namespace

void CudaOps::cache_append(Context& ctx, const CacheAppend& op) {
  check_op(op);
  if (op.docs.tokens == 0) return;
  ArenaScope scope(*ctx.scratch);
  const Documents docs = device_documents(ctx, op.docs);
  const int64_t width = op.keys.columns(), bytes = size_of(op.keys.dtype);
  if (access_width(width, op.keys, op.values, op.key_cache, op.value_cache) * bytes >= 16)
    start<uint4>(ctx, op, docs);
  else if (bytes == 4)
    start<uint32_t>(ctx, op, docs);
  else
    start<uint16_t>(ctx, op, docs);
}

}  // namespace jambalaya::cuda
