// Fully sharded parameters: the whole tensors of a unit exist while it is borrowed, in a small ring of slots
// that is filled ahead of use; whole gradients exist until they are reduced.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "model/parameters.h"
#include "parallel/reducer.h"

namespace jambalaya {

/// All ranks of the shard groups make the same calls in the same order.
class UnitRing {
 public:
  /// Values of this many units at most: one in use, one on its way, and the embedding when it is the head.
  static constexpr int kValueSlots = 3;
  /// Gradients: one being computed, one being reduced.
  static constexpr int kGradientSlots = 2;

  /// Bytes of one slot: what the largest unit needs.
  struct SlotBytes {
    int64_t values = 0, gradients = 0;
  };
  static SlotBytes slot_bytes(const std::vector<Part>& parts);

  /// The communicators are used by jobs of `queue` alone.
  UnitRing(Parameters& parameters, CommunicationQueue& queue, Communicator& dense_shard,
           Communicator& expert_shard);

  /// Waits for the unit's values (gathered ahead, as a rule), makes its gradients zero in a backward, and
  /// asks for the next unit that way.
  void borrow(int unit, Travel travel);
  /// In a backward its gradients are reduced and added to the owned ones.
  void give_back(int unit, Travel travel);
  /// The masters have changed: values gathered before are stale.
  void invalidate();

  const Arena& arena() const { return *arena_; }
  double wait_seconds = 0;  ///< that borrow waited for values, in all

 private:
  struct ValueSlot {
    char* data = nullptr;
    int unit = -1, uses = 0;
    int64_t gathered = 0;  ///< number of the job
    int64_t last_use = 0;
  };
  struct GradientSlot {
    float* data = nullptr;
    int unit = -1, uses = 0;
    int64_t cleared = 0;  ///< number of the job after which it is zero
  };
  ValueSlot* find(int unit);
  ValueSlot* gather(int unit);
  void borrow_gradient(int unit);
  void give_gradient_back(int unit);
  /// Where the parts of a unit lie in its slots.
  std::vector<PartMemory> layout(int unit, char* values, float* gradients) const;
  void place(int unit);
  Communicator& shard(int part) const { return parameters_.parts()[size_t(part)].expert ? expert_ : dense_; }

  Parameters& parameters_;
  CommunicationQueue& queue_;
  Communicator &dense_, &expert_;
  std::vector<std::vector<int>> parts_;  ///< by unit: those that are sharded
  std::unique_ptr<Arena> arena_;
  std::vector<ValueSlot> values_;
  std::vector<GradientSlot> gradients_;
  int64_t clock_ = 0;
};

}  // namespace jambalaya
