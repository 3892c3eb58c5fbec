#include "train/run/device.h"

#include <algorithm>
#include <cstdio>

#include "kernels/cuda_library.h"
#include "parallel/hosts.h"

namespace jambalaya {

namespace {

/// The lowest rank whose text is not empty, and that text on every rank; world.size() when there is none.
int first_with_text(Communicator& world, std::string& text) {
  int64_t rank = text.empty() ? world.size() : world.rank();
  world.all_reduce(make_tensor(&rank, {1}), Reduce::min);
  if (rank < world.size()) broadcast_string(world, text, int(rank));
  return int(rank);
}

/// "" where one rank is all there is.
std::string place_of(int rank, const std::vector<std::string>& hosts) {
  return hosts.size() > 1 ? cat("rank ", rank, " on host ", hosts[size_t(rank)], ": ") : "";
}

std::string decimal(const char* format, double value) {
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

}  // namespace

std::string describe(const AcceleratorProperties& p) {
  std::string text = cat(p.name, " (compute capability ", p.major, ".", p.minor, ", ", p.multiprocessors,
                         " multiprocessors, ", decimal("%.1f GiB", double(p.memory_bytes) / (1 << 30)));
  if (p.memory_bytes_per_second > 0) text += decimal(", %.2f TB/s", p.memory_bytes_per_second * 1e-12);
  return text + (p.emulated ? ", emulated on the CPU)" : ")");
}

ComputeDevice choose_device(Communicator& world, const std::string& wish) {
  const std::vector<std::string> hosts = gather_hosts(world);
  ComputeDevice device{nullptr, "cpu", {}};
  for (const std::string& host : hosts) device.memories.push_back(cat("host ", host));
  if (wish == "cpu") return device;

  std::string missing;
  const int gpus = cuda_devices(&missing);
  if (gpus > 0) missing.clear();
  if (const int rank = first_with_text(world, missing); rank < world.size()) {
    if (wish == "cuda")
      throw Error(Exit::usage, cat("run.device = cuda: ", place_of(rank, hosts), missing,
                                   "; with run.device = cpu (or auto) it is computed on the CPU"));
    device.text = cat("cpu (not cuda: ", place_of(rank, hosts), missing, ")");
    return device;
  }

  const std::string& host = hosts[size_t(world.rank())];
  const auto before = std::count(hosts.begin(), hosts.begin() + world.rank(), host);
  std::string failure;
  try {
    device.accelerator = open_cuda(int(before) % gpus);
  } catch (const Error& e) {
    failure = e.what();
  }
  if (const int rank = first_with_text(world, failure); rank < world.size())
    throw Error(Exit::usage, cat("run.device = ", wish, ": ", place_of(rank, hosts), failure,
                                 "; with run.device = cpu it is computed on the CPU"));
  const AcceleratorProperties& card = device.accelerator->properties();
  device.text = cat("cuda: ", describe(card));
  device.memories = gather_texts(world, cat("GPU ", card.bus_id, " (", card.name, ")"));
  for (size_t r = 0; r < hosts.size(); r++) device.memories[r] += cat(" of host ", hosts[r]);
  return device;
}

}  // namespace jambalaya
