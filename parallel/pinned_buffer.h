// Page-locked host memory that grows and is kept. Nothing is freed before the end: that waits for the whole
// device, where a collective may be waiting for another rank, whose other thread frees something too.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/accelerator.h"

namespace jambalaya {

class PinnedBuffer {
 public:
  explicit PinnedBuffer(Accelerator* accelerator) : accelerator_(accelerator) {}
  ~PinnedBuffer() {
    for (void* block : blocks_) accelerator_->free_pinned(block);
  }
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;

  /// At least `bytes`; what was there before may still be in use, and is lost from here when it must grow.
  void* take(int64_t bytes) {
    if (bytes > bytes_ || blocks_.empty()) {
      const int64_t more = std::max(bytes, 2 * bytes_);
      blocks_.push_back(accelerator_->pinned(more));
      bytes_ = more;
    }
    return blocks_.back();
  }

 private:
  Accelerator* accelerator_;
  std::vector<void*> blocks_;  ///< the last is in use
  int64_t bytes_ = 0;
};

}  // namespace jambalaya
