// A guard against memory that changes by itself: what an update left must still be there, bit for bit, when
// the next update begins or a checkpoint is written.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/context.h"
#include "model/parameters.h"
#include "train/run/optimizer.h"

namespace jambalaya {

class MemoryGuard {
 public:
  /// Over what the rank owns: masters, both moments, and the bf16 copies that the optimizer writes.
  MemoryGuard(const Parameters& parameters, const Optimizer& optimizer, int rank);

  /// Hashes everything as the update of `step` left it. Waits for the device.
  void remember(Context& ctx, int64_t step);
  /// Compares with what was remembered, if anything was. Error(failed) that names the first tensor that
  /// differs, rank, host and step.
  void check(Context& ctx) const;
  /// Tensors are about to be loaded.
  void forget() { hashes_.clear(); }
  /// Of what is hashed.
  int64_t bytes() const;

 private:
  /// A stretch of one tensor, short enough that many threads share a large one.
  struct Piece {
    const char* kind;
    int row;
    int64_t begin;  ///< first element, in the rank's part of the tensor
    Tensor memory;  ///< flat
  };
  void add(const char* kind, const OwnedSlice& slice, const Tensor& memory);
  std::vector<uint64_t> hashes(Context& ctx) const;

  const Parameters& parameters_;
  const int rank_;
  std::vector<Piece> pieces_;
  std::vector<uint64_t> hashes_;  ///< by piece; empty: nothing is remembered
  int64_t step_ = 0;
};

}  // namespace jambalaya
