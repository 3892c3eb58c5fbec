// A rank's part of the batch of its data rank, where the model reads it: sequences are cut over context ranks
// here and nowhere else.
#pragma once
#include <optional>
#include <vector>

#include "data/batch.h"
#include "model/jamba.h"
#include "parallel/mesh.h"

namespace jambalaya {

/// Sum of the CRC-32C of rows of `length` ids: it does not depend on who has which row, or in which order.
int64_t crc_of_rows(const std::vector<int32_t>& ids, int64_t length);

class LocalBatch {
 public:
  /// All context and tensor ranks of a data rank are given the same batch, which must outlive this. On a
  /// device ids and targets are copied (enqueued) into ctx.scratch, for as long as this lives.
  LocalBatch(Context& ctx, Mesh& mesh, HostBatch& batch);
  LocalBatch(const LocalBatch&) = delete;
  LocalBatch& operator=(const LocalBatch&) = delete;

  Batch view() const;
  /// Tokens of the data rank's batch that are here: [first, first + count).
  int64_t first() const { return first_; }
  int64_t tokens() const { return count_; }

 private:
  ArenaScope scratch_;
  Tensor ids_, targets_;
  std::optional<ContextShard> shard_;  ///< with more than one context rank
  DocumentsBuffer documents_;          ///< else
  int64_t first_ = 0, count_ = 0;
};

}  // namespace jambalaya
