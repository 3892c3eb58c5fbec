#include "parallel/hosts.h"

#include <unistd.h>

#include <algorithm>

#include "kernels/error.h"

namespace jambalaya {

namespace {
constexpr int64_t kLength = 256;  // POSIX: a host name has at most 255 bytes
}

std::string host_name() {
  char name[kLength] = "";
  gethostname(name, kLength - 1);
  return name;
}

std::vector<std::string> gather_texts(Communicator& world, std::string mine) {
  mine.resize(size_t(kLength - 1));
  mine.push_back('\0');
  std::vector<char> all(size_t(kLength * world.size()));
  world.all_gather(make_tensor(mine.data(), DType::u8, {kLength}),
                   make_tensor(all.data(), DType::u8, {kLength * world.size()}));
  std::vector<std::string> texts;
  for (int r = 0; r < world.size(); r++) texts.emplace_back(all.data() + r * kLength);
  return texts;
}

std::vector<std::string> gather_hosts(Communicator& world) { return gather_texts(world, host_name()); }

std::string describe_hosts(const std::vector<std::string>& hosts) {
  std::vector<std::string> names;  // in the order in which they come
  for (const std::string& host : hosts)
    if (std::find(names.begin(), names.end(), host) == names.end()) names.push_back(host);
  std::string text;
  for (const std::string& name : names) {
    std::string ranks;
    for (size_t r = 0; r < hosts.size(); r++) {
      if (hosts[r] != name) continue;
      const size_t first = r;
      while (r + 1 < hosts.size() && hosts[r + 1] == name) r++;
      ranks += first == r ? cat(" ", r) : cat(" ", first, "-", r);
    }
    text += cat(text.empty() ? "host " : ", host ", name, ": ranks", ranks);
  }
  return text;
}

}  // namespace jambalaya
