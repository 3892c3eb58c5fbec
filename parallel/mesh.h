// Ranks as a grid: data x context x tensor, and the same ranks seen by the experts as expert-data x expert.
#pragma once
#include <memory>
#include <string>

#include "parallel/communicator.h"

namespace jambalaya {

/// Degrees of parallelism; 0 for data: what is left over.
struct Layout {
  int data = 0, context = 1, tensor = 1, expert = 1;
};

class Mesh {
 public:
  /// Throws Error(layout) with the admissible ones when the degrees do not make up the world.
  Mesh(std::unique_ptr<Communicator> world, Layout layout);

  const Layout& layout() const { return layout_; }  ///< data filled in
  Communicator& world() { return *world_; }
  Communicator& data() { return *data_; }  ///< ranks that hold the same parameters and see other tokens
  int rank() const { return world_->rank(); }
  int size() const { return world_->size(); }
  int data_rank() const { return data_->rank(); }

 private:
  std::unique_ptr<Communicator> world_;
  Layout layout_;
  std::unique_ptr<Communicator> data_;
};

}  // namespace jambalaya
