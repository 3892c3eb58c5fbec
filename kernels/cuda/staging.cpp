#include "kernels/cuda/staging.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/launch.h"

namespace jambalaya::cuda {
namespace {
constexpr int64_t kRing = int64_t(32) << 20;
constexpr int64_t kPiece = kRing / 4;  ///< so that the host fills one while the device reads others
constexpr int64_t kAlignment = 256;
}  // namespace

Staging::~Staging() {
  if (!pieces_.empty()) try {
      cudaEventSynchronize(pieces_.back().read);
    } catch (...) {  // the emulated device tells what a task threw; those who wait for results hear of it
    }
  for (const Piece& piece : pieces_) cudaEventDestroy(piece.read);
  for (cudaEvent_t event : spare_) cudaEventDestroy(event);
  if (ring_) cudaFreeHost(ring_);
}

void Staging::retire_oldest() {
  const Piece oldest = pieces_.front();
  check(cudaEventSynchronize(oldest.read), "cudaEventSynchronize");
  pieces_.pop_front();
  spare_.push_back(oldest.read);
  used_ -= oldest.bytes;
}

void Staging::prepare() {
  if (ring_) return;
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, size_t(kRing), cudaHostAllocPortable), "cudaHostAlloc");
  ring_ = static_cast<char*>(memory);
}

char* Staging::take(int64_t bytes) {
  prepare();
  bytes = div_up(bytes, kAlignment) * kAlignment;
  const bool wraps = head_ + bytes > kRing;
  const int64_t left_over = wraps ? kRing - head_ : 0;
  while (used_ + left_over + bytes > kRing) retire_oldest();
  if (wraps) head_ = 0;
  char* const at = ring_ + head_;
  if (spare_.empty()) {
    spare_.emplace_back();
    check(cudaEventCreateWithFlags(&spare_.back(), cudaEventDisableTiming), "cudaEventCreate");
  }
  pieces_.push_back({left_over + bytes, spare_.back()});
  spare_.pop_back();
  head_ += bytes, used_ += left_over + bytes;
  return at;
}

void Staging::copy(char* to, int64_t to_pitch, const char* from, int64_t from_pitch, int64_t row_bytes,
                   int64_t rows) {
  if (row_bytes > kPiece) {
    for (int64_t r = 0; r < rows; r++)
      for (int64_t at = 0; at < row_bytes; at += kPiece) {
        const int64_t n = std::min(kPiece, row_bytes - at);
        copy(to + r * to_pitch + at, n, from + r * from_pitch + at, n, n, 1);
      }
    return;
  }
  for (int64_t row = 0; row < rows;) {
    const int64_t n = std::min(rows - row, kPiece / row_bytes);
    char* const staged = take(n * row_bytes);
    for (int64_t r = 0; r < n; r++)
      std::memcpy(staged + r * row_bytes, from + (row + r) * from_pitch, size_t(row_bytes));
    check(cudaMemcpy2DAsync(to + row * to_pitch, size_t(to_pitch), staged, size_t(row_bytes),
                            size_t(row_bytes), size_t(n), cudaMemcpyDefault, stream_),
          "cudaMemcpy2DAsync");
    check(cudaEventRecord(pieces_.back().read, stream_), "cudaEventRecord");
    row += n;
  }
}

}  // namespace jambalaya::cuda
