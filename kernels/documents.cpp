#include "kernels/documents.h"

#include "kernels/error.h"

namespace jambalaya {

DocumentsBuffer::DocumentsBuffer(const std::vector<int64_t>& lengths,
                                 const std::vector<int64_t>& first_positions, bool open_end) {
  assign(lengths, first_positions, open_end);
}

void DocumentsBuffer::assign(const std::vector<int64_t>& lengths, const std::vector<int64_t>& first_positions,
                             bool open_end) {
  JAMBALAYA_CHECK(first_positions.empty() || first_positions.size() == lengths.size());
  offsets_.assign(1, 0);
  first_position_.clear();
  segment_of_.clear();
  open_end_ = open_end;
  for (size_t s = 0; s < lengths.size(); s++) {
    JAMBALAYA_CHECK(lengths[s] >= 0, "segment ", s, " has length ", lengths[s]);
    offsets_.push_back(offsets_.back() + int32_t(lengths[s]));
    first_position_.push_back(first_positions.empty() ? 0 : int32_t(first_positions[s]));
    segment_of_.insert(segment_of_.end(), size_t(lengths[s]), int32_t(s));
  }
}

Documents DocumentsBuffer::view() const {
  return {.tokens = offsets_.back(),
          .count = int64_t(first_position_.size()),
          .offsets = offsets_.data(),
          .first_position = first_position_.data(),
          .segment_of = segment_of_.data(),
          .open_end = open_end_};
}

}  // namespace jambalaya
