// Values of boxes on their way between files and the memory in which they lie, a bounded piece at a time: a
// device's memory is read and written through page-locked host memory.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/transfer.h"

namespace jambalaya {

/// A part of a box: rows of every dimension from `from`, `count` long.
struct BoxPiece {
  std::vector<int64_t> from, count;
  int64_t elements() const;
};
/// A box of that shape in pieces of at most `limit` elements, each of which is one stretch of the packed box,
/// in order. None for a box without elements.
std::vector<BoxPiece> pieces_of_box(const std::vector<int64_t>& shape, int64_t limit);

/// Page-locked host memory for one piece; none (null) without a device, whose memory the host could not read.
class PieceMemory {
 public:
  static constexpr int64_t kElements = int64_t(1) << 22;  ///< 16 MiB: long beside a copy's start
  explicit PieceMemory(Accelerator* accelerator);
  ~PieceMemory();
  PieceMemory(const PieceMemory&) = delete;
  PieceMemory& operator=(const PieceMemory&) = delete;
  float* data() const { return data_; }

 private:
  Accelerator* accelerator_;
  float* data_ = nullptr;
};

/// box[from + i] = values[i] for i < count, in up to four dimensions; both packed, `box` anywhere. Enqueued
/// where it lies on a device.
void copy_into_box(const Context& ctx, const float* values, const BoxPiece& piece, const Tensor& box);

}  // namespace jambalaya
