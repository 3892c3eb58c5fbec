#include <algorithm>

#include "data/loader.h"
#include "data/loader_segments.h"
#include "kernels/error.h"
#include "kernels/philox.h"

namespace jambalaya {

HeldOut::HeldOut(const TokenSplit& split, int64_t sequence_length, int64_t rows, int64_t max_tokens)
    : split_(split), sequence_length_(sequence_length), rows_(rows) {
  check_not_empty(split);
  if (sequence_length < 1 || rows < 1)
    throw Error(Exit::usage,
                cat("batches of ", rows, " rows of ", sequence_length, " tokens: both must be at least 1"));
  const KeyedPermutation shuffled(uint64_t(split.documents()), hash_name(0, "evaluation"));
  int64_t total = 0;
  for (int64_t i = 0; i < split.documents(); i++) {
    const int64_t d = int64_t(shuffled(uint64_t(i)));
    total += split.lengths()[size_t(d)];
    if (max_tokens > 0 && total > max_tokens && i > 0) break;
    chosen_.push_back(d);
  }
  std::sort(chosen_.begin(), chosen_.end());
  starts_.push_back(0);
  for (int64_t d : chosen_) {
    starts_.push_back(starts_.back() + split.lengths()[size_t(d)]);
    bytes_ += split.document_bytes(d);
  }
}

int64_t HeldOut::batches() const {
  const int64_t batch_tokens = rows_ * sequence_length_;
  return (tokens() + batch_tokens - 1) / batch_tokens;
}

HostBatch HeldOut::batch(int64_t index, int rank, int world) const {
  JAMBALAYA_CHECK(index >= 0 && index < batches() && rank >= 0 && rank < world);
  HostBatch batch;
  const int64_t first = index * rows_ + rows_ * rank / world,
                last = index * rows_ + rows_ * (rank + 1) / world;
  reserve(batch, (last - first) * sequence_length_);
  for (int64_t row = first; row < last; row++) {
    int64_t begin = row * sequence_length_;
    const int64_t end = std::min(begin + sequence_length_, tokens());
    while (begin < end) {
      const size_t i = size_t(std::upper_bound(starts_.begin(), starts_.end(), begin) - starts_.begin()) - 1;
      const int64_t n = std::min(end, starts_[i + 1]) - begin;
      append_segment(split_, {chosen_[i], begin - starts_[i], n}, batch);
      begin += n;
    }
  }
  return batch;
}

}  // namespace jambalaya
