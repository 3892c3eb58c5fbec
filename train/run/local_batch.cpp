#include "train/run/local_batch.h"

#include "kernels/transfer.h"

namespace jambalaya {

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
