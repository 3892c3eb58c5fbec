#include "train/run/local_batch.h"

namespace jambalaya {

LocalBatch::LocalBatch(Mesh& mesh, HostBatch& batch) : batch_(batch), count_(int64_t(batch.ids.size())) {
  if (mesh.context().size() == 1) {
    documents_.assign(batch.lengths);
    return;
  }
  shard_.emplace(batch.lengths, mesh.context_rank(), mesh.context().size());
  JAMBALAYA_CHECK(shard_->all_tokens() == count_, "documents of ", shard_->all_tokens(), " tokens, ", count_,
                  " ids");
  first_ = shard_->range(shard_->rank()).begin;
  count_ = shard_->tokens();
}

Batch LocalBatch::view() const {
  return {.ids = make_tensor(batch_.ids.data() + first_, {count_}),
          .targets = make_tensor(batch_.targets.data() + first_, {count_}),
          .docs = shard_ ? shard_->documents() : documents_.view(),
          .context = shard_ ? &*shard_ : nullptr};
}

}  // namespace jambalaya
