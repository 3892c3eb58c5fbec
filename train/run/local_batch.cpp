#include "train/run/local_batch.h"

#include <algorithm>

#include "data/crc32c.h"
#include "kernels/transfer.h"

namespace jambalaya {

int64_t crc_of_rows(const std::vector<int32_t>& ids, int64_t length) {
  int64_t sum = 0;
  for (size_t i = 0; i < ids.size(); i += size_t(length))
    sum += crc32c(&ids[i], std::min(size_t(length), ids.size() - i) * sizeof(int32_t));
  return sum;
}

LocalBatch::LocalBatch(Context& ctx, Mesh& mesh, HostBatch& batch)
    : scratch_(*ctx.scratch), count_(int64_t(batch.ids.size())) {
  if (mesh.context().size() == 1) {
    documents_.assign(batch.lengths);
  } else {
    shard_.emplace(batch.lengths, mesh.context_rank(), mesh.context().size());
    JAMBALAYA_CHECK(shard_->all_tokens() == count_, "documents of ", shard_->all_tokens(), " tokens, ",
                    count_, " ids");
    first_ = shard_->range(shard_->rank()).begin;
    count_ = shard_->tokens();
  }
  ids_ = to_device(ctx, make_tensor(batch.ids.data() + first_, {count_}), "ids");
  targets_ = to_device(ctx, make_tensor(batch.targets.data() + first_, {count_}), "targets");
}

Batch LocalBatch::view() const {
  return {.ids = ids_,
          .targets = targets_,
          .docs = shard_ ? shard_->documents() : documents_.view(),
          .context = shard_ ? &*shard_ : nullptr};
}

}  // namespace jambalaya
