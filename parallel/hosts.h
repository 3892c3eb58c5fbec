// On which host each rank runs.
#pragma once
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace jambalaya {

std::string host_name();  ///< of this process
/// The first 255 bytes of every rank's text, in rank order (collective).
std::vector<std::string> gather_texts(Communicator& world, std::string mine);
/// Host names in rank order (collective).
std::vector<std::string> gather_hosts(Communicator& world);
/// "host a: ranks 0-3 6, host b: ranks 4-5"; `hosts` in rank order.
std::string describe_hosts(const std::vector<std::string>& hosts);

}  // namespace jambalaya
