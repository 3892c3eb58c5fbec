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

/// What a rank finds. At most one of the texts is not empty.
struct OwnGpu {
  int number = 0;
  std::string missing;  ///< why there is none
  std::string unfit;    ///< why this build cannot use it
  std::string failure;  ///< of one that should work
};

OwnGpu look_for_gpu(int ranks_before) {
  OwnGpu own;
  const int gpus = cuda_devices(&own.missing);
  if (gpus == 0) return own;
  own.missing.clear();
  own.number = ranks_before % gpus;
  try {
    if (cuda_fits(own.number, &own.unfit)) own.unfit.clear();
  } catch (const Error& e) {
    own.failure = e.what();
  }
  return own;
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
  ComputeDevice device;
  for (const std::string& host : hosts) device.memories.push_back(cat("host ", host));
  if (wish == "cpu") return device;

  const auto before = std::count(hosts.begin(), hosts.begin() + world.rank(), hosts[size_t(world.rank())]);
  OwnGpu own = look_for_gpu(int(before));
  for (std::string* why : {&own.missing, &own.unfit}) {
    const int rank = first_with_text(world, *why);
    if (rank == world.size()) continue;
    const std::string reason = place_of(rank, hosts) + *why;
    if (wish == "cuda")
      throw Error(Exit::usage, cat("device cuda: ", reason, "; --device cpu (or auto) computes on the CPU"));
    device.text = cat("cpu (not cuda: ", reason, ")");
    if (why == &own.unfit) device.warning = cat("computing on the CPU, not on the GPU: ", reason);
    return device;
  }

  try {
    if (own.failure.empty()) device.accelerator = open_cuda(own.number);
  } catch (const Error& e) {
    own.failure = e.what();
  }
  if (const int rank = first_with_text(world, own.failure); rank < world.size())
    throw Error(Exit::usage, cat("device cuda: ", place_of(rank, hosts), own.failure,
                                 "; --device cpu computes on the CPU"));
  const AcceleratorProperties& card = device.accelerator->properties();
  device.text = cat("cuda: ", describe(card));
  device.memories = gather_texts(world, cat("GPU ", card.bus_id, " (", card.name, ")"));
  for (size_t r = 0; r < hosts.size(); r++) device.memories[r] += cat(" of host ", hosts[r]);
  return device;
}

}  // namespace jambalaya
