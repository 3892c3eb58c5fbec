// What `jambalaya doctor` found (doctor.cpp), and how it is told (doctor_report.cpp).
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/accelerator.h"
#include "parallel/layout.h"
#include "train/json.h"
#include "train/machine.h"

namespace jambalaya {

struct Findings {
  Machine machine;
  std::string instruction_set;
  std::string mpi, hdf5;
  bool launched = false;
  struct Rank {
    std::string host, cores;
    int core_count = 0, threads = 0;
    int gpus = 0;        ///< that it sees; 0 where this build cannot use the one of its place
    std::string device;  ///< "cpu", "gpu 3"
  };
  std::vector<Rank> ranks;
  struct Gpu {
    AcceleratorProperties properties;
    int64_t free_bytes = 0;
    std::string ops;      ///< the libraries that its ops use
    std::string problem;  ///< why it cannot be used, and nothing else is known of it; "": it can
  };
  std::vector<Gpu> gpus;              ///< of this host
  std::string no_gpu, nccl, no_nccl;  ///< why there is none; version, or why it cannot be used
  std::string cuda_library;           ///< what it holds; "" without one
  std::string transport;              ///< of tensors between these ranks
  Layout layout;                      ///< of these ranks, data filled in
  std::vector<std::pair<std::string, std::string>> environment;  ///< as the process was started
  std::vector<std::string> advice;
};

Json as_json(const Findings& findings);
std::string as_text(const Findings& findings);

}  // namespace jambalaya
