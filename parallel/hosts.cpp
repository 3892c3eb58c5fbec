#include "parallel/hosts.h"

#include <unistd.h>

namespace jambalaya {

namespace {
constexpr int64_t kLength = 256;  // POSIX: at most 255 bytes
}

std::string host_name() {
  char name[kLength] = "";
  gethostname(name, kLength - 1);
  return name;
}

std::vector<std::string> gather_hosts(Communicator& world) {
  std::string mine = host_name();
  mine.resize(size_t(kLength));
  std::vector<char> all(size_t(kLength * world.size()));
  world.all_gather(make_tensor(mine.data(), DType::u8, {kLength}),
                   make_tensor(all.data(), DType::u8, {kLength * world.size()}));
  std::vector<std::string> hosts;
  for (int r = 0; r < world.size(); r++) hosts.emplace_back(all.data() + r * kLength);
  return hosts;
}

}  // namespace jambalaya
