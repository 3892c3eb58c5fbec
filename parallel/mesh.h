// Ranks as a grid: data x context x tensor, and the same ranks seen by the experts as expert-data x expert x
// expert-tensor. Coordinates, communicators of every row of the grid, and hosts (docs/parallelism.md).
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/layout.h"
#include "parallel/pinned_buffer.h"

namespace jambalaya {

class Mesh {
 public:
  /// Collective over the world. Throws Error(layout) when the degrees do not make up the world; what the
  /// model admits is for check_layout to say before.
  ///
  /// With a link every group takes tensors in device memory too: those of the computing thread on
  /// link.compute, those of the communication thread on link.communication (Communicator::attach). The
  /// accelerator and the streams must outlive the mesh.
  Mesh(std::unique_ptr<Communicator> world, const Layout& layout, const DeviceLink& link = {});

  const Layout& layout() const { return layout_; }  ///< data filled in
  const DeviceLink& link() const { return link_; }  ///< transport chosen
  int rank() const { return world_->rank(); }
  int size() const { return world_->size(); }

  // Coordinates of this rank.
  int data_rank() const { return place_.data; }
  int context_rank() const { return place_.context; }
  int tensor_rank() const { return place_.tensor; }
  int expert_data_rank() const { return place_.expert_data; }
  int expert_rank() const { return place_.expert; }
  int expert_tensor_rank() const { return place_.expert_tensor; }

  // Groups for the thread that computes; ordered by the coordinate that varies.
  Communicator& world() { return *world_; }
  Communicator& tensor() { return *tensor_; }            ///< same data and context coordinate
  Communicator& context() { return *context_; }          ///< same data and tensor coordinate
  Communicator& data() { return *data_; }                ///< same context and tensor coordinate
  Communicator& tokens() { return *tokens_; }            ///< same tensor coordinate: data x context
  Communicator& experts() { return *experts_; }          ///< exchange of tokens: expert x expert_tensor
  Communicator& expert_data() { return *expert_data_; }  ///< hold the same experts

  // Groups for the communication thread: gradients are summed and parameters gathered over `shard` (ranks
  // that share one copy), then summed over `replicas` (ranks that hold the same range of a copy). Shard
  // groups are consecutive ranks of tokens() and expert_data().
  Communicator& dense_shard() { return *dense_shard_; }
  Communicator& dense_replicas() { return *dense_replicas_; }
  Communicator& expert_shard() { return *expert_shard_; }
  Communicator& expert_replicas() { return *expert_replicas_; }

  /// For the computing thread's reads of small tensors in device memory; it waits for each before the next.
  PinnedBuffer& host_reads() { return host_reads_; }

  const std::string& host_of(int rank) const { return hosts_[size_t(rank)]; }
  /// Groups with a backend of their own for tensors in device memory (a communicator of NCCL's); the others
  /// share one of these.
  int device_groups() const { return device_groups_; }
  /// What will be slow about this placement, for the user; the same on every rank.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  void attach_groups();

  std::unique_ptr<Communicator> world_;
  Layout layout_;
  DeviceLink link_;
  PinnedBuffer host_reads_;
  Coordinates place_;
  std::unique_ptr<Communicator> tensor_, context_, data_, tokens_, experts_, expert_data_;
  std::unique_ptr<Communicator> dense_shard_, dense_replicas_, expert_shard_, expert_replicas_;
  std::vector<std::string> hosts_, warnings_;
  int device_groups_ = 0;
};

/// Placements to warn of: tensor groups that lie on several hosts, by host and rank.
std::vector<std::string> placement_warnings(const Layout& layout, const std::vector<std::string>& hosts);

}  // namespace jambalaya
