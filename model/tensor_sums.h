// Gradients that tensor ranks hold partial sums of: tensors that act on tokens which those ranks split (block
// norms under sequence parallelism, the router), and key/value heads that several ranks hold.
#pragma once
#include <vector>

#include "kernels/arena.h"
#include "model/parameters.h"
#include "parallel/communicator.h"

namespace jambalaya {

class TensorSums {
 public:
  TensorSums(Parameters& parameters, Communicator& tensor);
  /// Sums the gradients of such rows of a unit over the tensor ranks, in one collective. They must be where
  /// Parameters::gradient finds them.
  void run(int unit);

 private:
  /// In the packed buffer a row is as long as all of its distinct parts together: copies of one part fall on
  /// the same place.
  struct Entry {
    int row;
    int64_t at, size;  ///< this rank's part
  };
  struct Unit {
    std::vector<Entry> entries;
    int64_t size = 0;
  };
  Parameters& parameters_;
  Communicator& tensor_;
  std::vector<Unit> units_;
  Arena arena_;
  Tensor buffer_;  ///< f32, as large as the largest unit's
};

}  // namespace jambalaya
