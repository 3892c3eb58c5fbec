#include "train/machine.h"

#include <H5public.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>

#include "kernels/byte_text.h"
#include "kernels/thread_pool.h"

namespace jambalaya {

namespace {

/// First line that begins with `name`, after the colon.
std::string field_of(const char* path, const std::string& name) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(name)) continue;
    const size_t at = line.find_first_not_of(" \t", line.find(':') + 1);
    return at == std::string::npos ? "" : line.substr(at);
  }
  return "";
}

int64_t kib_of(const char* name) { return std::atoll(field_of("/proc/meminfo", name).c_str()) * 1024; }

std::vector<std::string> useful_features() {
  std::istringstream words(field_of("/proc/cpuinfo", "flags"));
  std::set<std::string> have;
  for (std::string word; words >> word;) have.insert(word);
  std::vector<std::string> useful;
  for (const char* name : {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq",
                           "avx512_bf16", "amx_tile", "amx_bf16"})
    if (have.contains(name)) useful.push_back(name);
  return useful;
}

/// Containers limit a process through control groups (version 2 is mounted here; version 1 has other names).
double quota() {
  std::ifstream in("/sys/fs/cgroup/cpu.max");
  std::string share;
  double period = 0;
  return in >> share >> period && share != "max" && period > 0 ? std::atof(share.c_str()) / period : 0;
}

int64_t memory_limit() {
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream in(path);
    int64_t bytes = 0;
    if (in >> bytes && bytes > 0 && bytes < int64_t(1) << 60) return bytes;
  }
  return kUnlimited;
}

int64_t soft_limit(decltype(RLIMIT_NOFILE) what) {
  rlimit limit{};
  if (getrlimit(what, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kUnlimited;
  return int64_t(limit.rlim_cur);
}

int64_t free_bytes(const char* path) {
  struct statvfs disk {};
  return statvfs(path, &disk) == 0 ? int64_t(disk.f_bavail) * int64_t(disk.f_frsize) : 0;
}

}  // namespace

Machine look_at_machine() {
  Machine m;
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  m.host = host;
  m.cpu_model = field_of("/proc/cpuinfo", "model name");
  m.cpu_features = useful_features();
  m.online_cores = int(sysconf(_SC_NPROCESSORS_ONLN));
  m.allowed = allowed_cores();
  m.quota_cores = quota();
  m.memory_total = kib_of("MemTotal");
  m.memory_available = kib_of("MemAvailable");
  m.memory_limit = memory_limit();
  m.disk_free = free_bytes(".");
  m.shared_memory = free_bytes("/dev/shm");
  m.open_files = soft_limit(RLIMIT_NOFILE);
  m.locked_memory = soft_limit(RLIMIT_MEMLOCK);
  m.address_space = soft_limit(RLIMIT_AS);
  return m;
}

std::vector<std::pair<std::string, std::string>> known_environment() {
  static const char* const families[] = {"JAMBALAYA_", "NCCL_", "CUDA_", "CUBLAS", "CUDNN_", "UCX_"};
  static const char* const names[] = {"OMPI_COMM_WORLD_RANK",
                                      "OMPI_COMM_WORLD_SIZE",
                                      "OMPI_COMM_WORLD_LOCAL_RANK",
                                      "OMPI_COMM_WORLD_LOCAL_SIZE",
                                      "OMPI_COMM_WORLD_NODE_RANK",
                                      "OMPI_UNIVERSE_SIZE",
                                      "PMIX_RANK",
                                      "SLURM_PROCID",
                                      "SLURM_NTASKS",
                                      "SLURM_LOCALID",
                                      "SLURM_NODEID",
                                      "SLURM_JOB_ID",
                                      "SLURM_STEP_ID",
                                      "SLURM_JOB_NUM_NODES",
                                      "SLURM_RESTART_COUNT",
                                      "OMP_NUM_THREADS",
                                      "HDF5_USE_FILE_LOCKING",
                                      "LD_LIBRARY_PATH",
                                      "TMPDIR",
                                      "NO_COLOR",
                                      "FORCE_COLOR"};
  std::map<std::string, std::string> found;
  for (char** entry = environ; *entry; entry++) {
    const std::string text = *entry, name = text.substr(0, text.find('='));
    const auto begins = [&](const char* family) { return name.starts_with(family); };
    if (std::any_of(std::begin(families), std::end(families), begins) ||
        std::find(std::begin(names), std::end(names), name) != std::end(names))
      found[name] = text.substr(std::min(text.size(), name.size() + 1));
  }
  return {found.begin(), found.end()};
}

std::string hdf5_version() {
  unsigned major = 0, minor = 0, release = 0;
  return H5get_libversion(&major, &minor, &release) >= 0 ? cat(major, ".", minor, ".", release) : "";
}

std::string memory_text(int64_t bytes) { return bytes == kUnlimited ? "unlimited" : byte_text(bytes); }

std::string core_ranges(const std::vector<int>& list) {
  std::string out;
  for (size_t i = 0; i < list.size(); i++) {
    size_t end = i;
    while (end + 1 < list.size() && list[end + 1] == list[end] + 1) end++;
    out += cat(out.empty() ? "" : ",", list[i], end > i ? cat("-", list[end]) : "");
    i = end;
  }
  return out;
}

}  // namespace jambalaya
