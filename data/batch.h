// What the loader hands to the training step: packed rows with their document starts, for this data rank.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/documents.h"

namespace jambalaya {

struct HostBatch {
  std::vector<int32_t> ids;      ///< [T]
  std::vector<int32_t> targets;  ///< [T] next token of the same document, -100 where there is none
  std::vector<int64_t> lengths;  ///< of the segments, in order; a row's end ends its segment too
  int64_t counted = 0;           ///< targets >= 0
};

}  // namespace jambalaya
