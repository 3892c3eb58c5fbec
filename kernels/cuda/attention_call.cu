#include "kernels/cuda/attention_call.h"

#include <limits>

#include "kernels/cuda/vector.h"
#include "kernels/transfer.h"

namespace jambalaya::cuda {

bool mma_takes(int64_t head_size, std::initializer_list<Tensor> operands) {
  if (operands.begin()->dtype != DType::bf16 || head_size > 256 || head_size % 8 != 0) return false;
  for (const Tensor& t : operands)
    if (access_width(head_size, t) != 8) return false;
  return true;
}

void check_head_size(int64_t head_size) {
  constexpr int64_t kLargest = 768;  // attention_general.cu in the 163 KB that an sm_80 block can have
  if (head_size > kLargest)
    throw Error(Exit::usage, cat("attention: head size ", head_size, " is above ", kLargest,
                                 ", the most that the CUDA kernels take; use more heads, or the CPU"));
}

SegmentTable send_segments(const Context& ctx, const std::vector<TileSegment>& records, int64_t tiles) {
  const int64_t bytes = int64_t(records.size() * sizeof(TileSegment));
  auto* there = static_cast<TileSegment*>(ctx.scratch->take(bytes, "attention.segments"));
  copy(ctx, make_tensor(const_cast<TileSegment*>(records.data()), DType::u8, {bytes}),
       make_tensor(there, DType::u8, {bytes}, Device::cuda));
  return {there, int32_t(records.size()), int32_t(tiles)};
}

SegmentTable send_segments(const Context& ctx, const attention::Segments& segments, int64_t first,
                           int64_t last, Cut cut, int64_t step, int64_t together) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  std::vector<TileSegment> records;
  records.reserve(size_t(last - first));
  int64_t tiles = 0;
  for (int64_t s = first; s < last; s++) {
    const int64_t tokens = segments.tokens(s), seen = segments.seen(s), past = segments.past(s);
    const int64_t rows = cut == Cut::queries ? tokens * together : seen;
    if (rows == 0) continue;
    JAMBALAYA_CHECK(past + tokens < kMost && rows < kMost, "segment ", s, " has ", tokens,
                    " tokens from position ", past, ": more than kernels count");
    records.push_back({segments.first_token(s), segments.first_key(s), int32_t(tiles), int32_t(tokens),
                       int32_t(past), int32_t(seen)});
    tiles += div_up(rows, step);
    JAMBALAYA_CHECK(tiles <= kMost, tiles, " tiles");
  }
  return send_segments(ctx, records, tiles);
}

}  // namespace jambalaya::cuda
