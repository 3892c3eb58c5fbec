#include "parallel/device_link.h"

#include <cstdlib>
#include <map>
#include <vector>

#include "kernels/error.h"
#include "parallel/communicator_nccl.h"
#include "parallel/hosts.h"

namespace jambalaya {

const char* name_of(Transport transport) {
  constexpr const char* names[] = {"auto", "nccl", "staged"};
  return names[size_t(transport)];
}

namespace {

/// NCCL refuses two ranks on one GPU but for these two ways round its check, which are for experiments.
bool may_share_a_gpu() { return std::getenv("NCCL_HOSTID") || std::getenv("NCCL_MULTI_RANK_GPU_ENABLE"); }

/// Why NCCL cannot be used by this rank alone, "" when it can.
std::string obstacle(const DeviceLink& link) {
  std::string why;
  if (nccl_version(&why).empty()) return why;
  // The library of a toolkit needs a real GPU; that of the tests is named.
  if (link.accelerator->properties().emulated && !std::getenv("JAMBALAYA_NCCL_LIBRARY"))
    return "the GPU is emulated";
  return "";
}

/// "ranks 0 and 1 share GPU 0000:17:00.0 of host a", for the first two that do; "" when none do.
std::string shared_gpu(const std::vector<std::string>& gpus, const std::vector<std::string>& hosts) {
  std::map<std::string, size_t> first;
  for (size_t r = 0; r < gpus.size(); r++) {
    const auto [at, is_new] = first.try_emplace(cat(hosts[r], " ", gpus[r]), r);
    if (!is_new) return cat("ranks ", at->second, " and ", r, " share GPU ", gpus[r], " of host ", hosts[r]);
  }
  return "";
}

}  // namespace

std::string why_not_nccl(const std::vector<std::string>& hosts, const std::vector<std::string>& obstacles,
                         const std::vector<std::string>& gpus) {
  for (size_t r = 0; r < obstacles.size(); r++)
    if (!obstacles[r].empty()) return cat("rank ", r, " on host ", hosts[r], ": ", obstacles[r]);
  return shared_gpu(gpus, hosts);
}

Transport choose_transport(Communicator& world, const DeviceLink& link, std::string* note) {
  if (note) note->clear();
  if (!link || link.transport == Transport::staged) return Transport::staged;
  if (world.size() == 1) return link.transport == Transport::nccl ? Transport::nccl : Transport::staged;
  const AcceleratorProperties& gpu = link.accelerator->properties();
  const bool own = gpu.emulated || (link.transport == Transport::nccl && may_share_a_gpu());
  const std::vector<std::string> hosts = gather_hosts(world), obstacles = gather_texts(world, obstacle(link)),
                                 gpus = gather_texts(world, own ? cat("of rank ", world.rank()) : gpu.bus_id);
  const std::string why = why_not_nccl(hosts, obstacles, gpus);
  if (why.empty()) return Transport::nccl;
  if (link.transport == Transport::nccl)
    throw Error(Exit::layout, cat("parallel.transport = nccl cannot be used: ", why,
                                  "; use auto or staged, or start one rank for each GPU"));
  if (note) *note = cat("tensors travel over host memory and MPI, which is slow, instead of NCCL: ", why);
  return Transport::staged;
}

#ifndef JAMBALAYA_HAVE_NCCL
std::string nccl_version(std::string* why) {
  if (why) *why = "this build has no NCCL: nccl.h was not found when it was configured";
  return "";
}
std::unique_ptr<DeviceBackend> make_nccl_backend(HostBackend&, Accelerator&, Accelerator::Stream,
                                                 const std::string&) {
  std::string why;
  nccl_version(&why);
  throw Error(Exit::layout, why);
}
#endif

}  // namespace jambalaya
