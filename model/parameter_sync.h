// Keeps the parameters of all ranks one model: gradients are summed over the ranks that hold the same tensors
// while the backward goes on, and sharded values are gathered ahead of use.
//
//   none        gradients all-reduced in buckets
//   optimizer   gradients reduce-scattered part by part, owned ranges updated, values gathered after the
//   update full        a unit's values gathered when it is borrowed, its gradients reduce-scattered when it
//   is given back
//
// The main thread sums over tensor ranks first; all that goes over shard and replica groups is done by one
// communication thread, on a device in its stream: where this says that it waits, the computing thread waits
// until the work is enqueued, and the computing stream until it is done.
#pragma once
#include <memory>
#include <vector>

#include "model/parameters.h"
#include "model/tensor_sums.h"
#include "model/unit_ring.h"
#include "parallel/mesh.h"
#include "parallel/reducer.h"

namespace jambalaya {

class ParameterSync final : public UnitLender {
 public:
  /// Becomes the lender of `parameters`, which must have been made for this mesh and lie on the device of its
  /// link; both must outlive this.
  ParameterSync(Parameters& parameters, Mesh& mesh, int64_t bucket_bytes);
  ~ParameterSync() override;

  /// The masters have changed (update, loading, start): sharded values will be gathered anew. Values that
  /// stay in memory are gathered in the background; borrow waits for them.
  void refresh();

  void borrow(int unit, Travel travel) override;
  void give_back(int unit, Travel travel) override;

  /// A micro-batch begins; in the last one of a step gradients become final.
  void begin_backward(bool last);
  /// The gradients of a table layer (ParameterRow::layer) are complete for this micro-batch, and its unit has
  /// been given back. Nothing happens before the last micro-batch.
  void gradients_ready(int layer);
  /// Waits for all communication: afterwards the owned gradients are sums over all ranks.
  void finish();

  /// Waits for values that are on their way, too.
  void settle() { queue_.drain(); }

  double reduce_wait_seconds() const { return reduce_wait_; }  ///< of the last finish: not hidden
  /// Time since the last call that borrow waited for values.
  double take_gather_wait_seconds();
  /// Slots of full sharding; null otherwise.
  const Arena* ring_arena() const { return ring_ ? &ring_->arena() : nullptr; }

 private:
  /// What the parts of one reduction group (dense, experts) have in common.
  struct Group {
    Communicator *shard, *replicas;
    std::unique_ptr<GradientReducer> reducer;  ///< unsharded, with replicas
    std::vector<int> reducer_group;            ///< by unit; -1: it has none
  };
  Group& group_of(const Part& part) { return groups_[part.expert]; }
  void make_reducer(Group& group, bool expert, int64_t bucket_bytes);
  bool stays(const Part& part) const { return part.shards > 1 && !ring_; }
  void reduce_sharded(int part);
  void gather_unit(int unit);
  void wait_for_values(int unit);

  Parameters& parameters_;
  CommunicationQueue queue_;
  Group groups_[2];                      ///< dense, experts
  std::vector<std::vector<int>> parts_;  ///< by unit
  std::unique_ptr<TensorSums> tensor_sums_;
  std::unique_ptr<UnitRing> ring_;
  std::vector<PartMemory> memory_;  ///< by part, of values that stay
  std::vector<int64_t> gathered_;   ///< by unit: number of the job; 0: values are in use already
  bool last_ = false;
  double reduce_wait_ = 0, gather_wait_ = 0, ring_wait_taken_ = 0;
};

}  // namespace jambalaya
