// A whole tensor from what all ranks own of it: for comparing and for tests, one tensor at a time.
#pragma once
#include <vector>

#include "model/parameters.h"
#include "parallel/communicator.h"

namespace jambalaya {

/// The global tensor of a row, on every rank. `owned`: flat f32 [owned_size] in the places of the owned
/// masters (masters, gradients after their reduction, moments). All ranks of the world call it.
std::vector<float> gather_tensor(const Parameters& parameters, const Tensor& owned, int row,
                                 Communicator& world);

}  // namespace jambalaya
