// Page-locked host memory that grows and is kept: getting it anew stops the device.
#pragma once
#include <algorithm>
#include <cstdint>

#include "kernels/accelerator.h"

namespace jambalaya {

class PinnedBuffer {
 public:
  explicit PinnedBuffer(Accelerator* accelerator) : accelerator_(accelerator) {}
  ~PinnedBuffer() {
    if (data_) accelerator_->free_pinned(data_);
  }
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;

  /// At least `bytes`. What was there before is lost when it must grow; then nothing that was enqueued may
  /// still use it.
  void* take(int64_t bytes) {
    if (bytes > bytes_) {
      if (data_) accelerator_->free_pinned(data_);
      data_ = nullptr;
      bytes_ = std::max(bytes, bytes_ + bytes_ / 2);
      data_ = accelerator_->pinned(bytes_);
    }
    return data_;
  }

 private:
  Accelerator* accelerator_;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace jambalaya
