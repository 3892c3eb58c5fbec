#include "parallel/hosts.h"

#include <unistd.h>

namespace jambalaya {

std::vector<std::string> gather_hosts(Communicator& world) {
  constexpr int64_t kLength = 256;  // POSIX: at most 255 bytes
  char mine[kLength] = "";
  gethostname(mine, kLength - 1);
  std::vector<char> all(size_t(kLength * world.size()));
  world.all_gather(make_tensor(mine, DType::u8, {kLength}),
                   make_tensor(all.data(), DType::u8, {kLength * world.size()}));
  std::vector<std::string> hosts;
  for (int r = 0; r < world.size(); r++) hosts.emplace_back(all.data() + r * kLength);
  return hosts;
}

}  // namespace jambalaya
