// Generation's cache of keys and values: new rows are copied to their places.
#include <cstring>

#include "kernels/cpu/ops_cpu.h"
#include "kernels/op_checks.h"

namespace jambalaya {

void CpuOps::cache_append(Context& ctx, const CacheAppend& op) {
  check_op(op);
  constexpr int64_t kTokens = 64;  // per chunk of work
  const Documents& docs = op.docs;
  if (docs.tokens == 0) return;
  const int64_t room = op.key_cache.rows() / docs.count;
  const size_t bytes = size_t(op.keys.columns() * size_of(op.keys.dtype));
  ctx.pool->run_range(docs.tokens, kTokens, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const int64_t row = docs.segment_of[t] * room + docs.position(t);
      std::memcpy(op.key_cache.address(row * op.key_cache.row_stride),
                  op.keys.address(t * op.keys.row_stride), bytes);
      std::memcpy(op.value_cache.address(row * op.value_cache.row_stride),
                  op.values.address(t * op.values.row_stride), bytes);
    }
  });
}

}  // namespace jambalaya
