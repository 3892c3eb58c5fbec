// What the operating system tells about this machine and process: for `jambalaya doctor` and the record of a
// run.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace jambalaya {

constexpr int64_t kUnlimited = -1;

struct Machine {
  std::string host, cpu_model;
  std::vector<std::string> cpu_features;  ///< those that the kernels can use, of /proc/cpuinfo's words
  int online_cores = 0;
  std::vector<int> allowed;  ///< cores of this process's affinity mask
  double quota_cores = 0;    ///< of the control group; 0: none
  int64_t memory_total = 0, memory_available = 0;
  int64_t memory_limit = kUnlimited;  ///< of the control group
  int64_t disk_free = 0, shared_memory = 0;
  int64_t open_files = 0, locked_memory = 0, address_space = 0;  ///< soft limits
};
Machine look_at_machine();

/// Those of the variables that this program, launchers and libraries read which are set here, by name.
std::vector<std::pair<std::string, std::string>> known_environment();

std::string hdf5_version();                             ///< of the library at hand, "1.10.8"
std::string memory_text(int64_t bytes);                 ///< "7.1 GiB", "8 MiB", "unlimited"
std::string core_ranges(const std::vector<int>& list);  ///< "0-3,8"

}  // namespace jambalaya
