#include "kernels/cuda/attention_decode.h"

#include "kernels/check.h"
#include "kernels/cuda/constants.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/vector.h"

namespace jambalaya::cuda {
namespace {

/// A call none of whose segments has more tokens is decoding: the rows of a tile are then also the query
/// heads that share a key head, so that its keys are read once for all of them.
constexpr int64_t kFewTokens = 8;
/// Keys are cut until there are so many blocks (about 4 on each multiprocessor of a large GPU, as a constant,
/// so that results do not depend on the GPU), or a range has become this short.
constexpr int64_t kBlocksWanted = 512, kLeastKeys = 256;

constexpr int kThreads = 128;

/// One block for a token and head, its threads along the head's columns.
template <class T>
__global__ void __launch_bounds__(kThreads)
    combine_kernel(const float* part_o, const float* part_lse, int splits, int64_t tokens, int heads,
                   int head_size, T* o, int64_t o_stride, float* lse, int64_t lse_stride) {
  const int64_t token = blockIdx.x / heads;
  const int head = int(blockIdx.x % heads);
  const float unseen = minus_infinity();
  const int64_t lse_step = tokens * heads;  // from split to split
  const float* const row_lse = part_lse + head * tokens + token;
  float top = unseen;
  for (int s = 0; s < splits; s++) top = Max()(row_lse[s * lse_step], top);
  if (top == unseen) top = 0;  // exp(-inf - 0) = 0
  float total = 0;
  for (int s = 0; s < splits; s++) total += expf(row_lse[s * lse_step] - top);
  const int64_t o_step = lse_step * head_size, row = token * heads + head;
  for (int c = threadIdx.x; c < head_size; c += kThreads) {
    float x = 0;
    for (int s = 0; s < splits; s++)
      x += expf(row_lse[s * lse_step] - top) * part_o[s * o_step + row * head_size + c];
    o[token * o_stride + int64_t(head) * head_size + c] = from_float<T>(total == 0 ? 0.f : x / total);
  }
  if (lse && threadIdx.x == 0) lse[head * lse_stride + token] = total == 0 ? unseen : top + logf(total);
}

template <class T>
void start(const Context& ctx, const AttentionForward& op, int64_t heads, int64_t splits, const float* part_o,
           const float* part_lse) {
  launch(ctx, "attention_combine", combine_kernel<T>, {grid_of(op.o.rows() * heads), kThreads}, part_o,
         part_lse, splits, op.o.rows(), heads, op.head_size, op.o.ptr<T>(), op.o.row_stride,
         op.lse ? op.lse.ptr<float>() : nullptr, op.lse.row_stride);
}

}  // namespace

ForwardPlan plan_forward(const attention::Heads& heads, const attention::Segments& segments,
                         int64_t tile_rows) {
  int64_t most_tokens = 0, most_keys = 0, tiles = 0;
  for (int64_t s = 0; s < segments.count(); s++) {
    most_tokens = std::max(most_tokens, segments.tokens(s));
    most_keys = std::max(most_keys, segments.seen(s));
    tiles += div_up(segments.tokens(s) * heads.shared(), tile_rows);
  }
  ForwardPlan plan{1, 1, div_up(std::max<int64_t>(most_keys, 1), 64) * 64};
  if (most_tokens > kFewTokens) return plan;
  plan.together = heads.shared();
  const int64_t blocks = std::max<int64_t>(1, tiles * heads.key);
  plan.splits = std::max<int64_t>(1, std::min(kBlocksWanted / blocks, most_keys / kLeastKeys));
  plan.keys_per_split = div_up(div_up(std::max<int64_t>(most_keys, 1), plan.splits), 64) * 64;
  plan.splits = div_up(std::max<int64_t>(most_keys, 1), plan.keys_per_split);
  return plan;
}

void combine_splits(const Context& ctx, const AttentionForward& op, int64_t heads, int64_t splits,
                    const float* part_o, const float* part_lse) {
  act_kind(op.o) ? start<bf16>(ctx, op, heads, splits, part_o, part_lse)
                 : start<float>(ctx, op, heads, splits, part_o, part_lse);
}

}  // namespace jambalaya::cuda
