// On which host each rank runs.
#pragma once
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace jambalaya {

std::string host_name();  ///< of this process
/// Host names in rank order (collective).
std::vector<std::string> gather_hosts(Communicator& world);

}  // namespace jambalaya
