// Host memory that is not page-locked on its way to the device. cudaMemcpyAsync would copy it to pinned
// memory of the driver's, for which it may wait until the stream has come so far; here the pinned memory is
// our own ring, and only a full ring waits: with more than its size under way on one stream.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <deque>
#include <vector>

namespace jambalaya::cuda {

/// Of one stream, used by one thread at a time.
class Staging {
 public:
  explicit Staging(cudaStream_t stream) : stream_(stream) {}
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  /// Allocates the ring, which the first copy does otherwise: page-locking may wait for the whole device.
  void prepare();
  /// Enqueues the copy of a matrix of bytes, whose source has been read at return.
  void copy(char* to, int64_t to_pitch, const char* from, int64_t from_pitch, int64_t row_bytes,
            int64_t rows);

 private:
  /// Bytes of the ring that the stream still reads, in its order.
  struct Piece {
    int64_t bytes;  ///< with what was left over at the ring's end before it
    cudaEvent_t read;
  };
  char* take(int64_t bytes);
  void retire_oldest();

  cudaStream_t stream_;
  char* ring_ = nullptr;
  int64_t head_ = 0, used_ = 0;
  std::deque<Piece> pieces_;
  std::vector<cudaEvent_t> spare_;
};

}  // namespace jambalaya::cuda
