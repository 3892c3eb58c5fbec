#include <algorithm>
#include <cstdlib>
#include <string>

#include "parallel/communicator.h"

namespace jambalaya {

bool launched_by_mpi() {
  // PMIX_RANK is also set by srun --mpi=pmix; PMI_RANK by other launchers.
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"})
    if (std::getenv(name)) return true;
  const char* tasks = std::getenv("SLURM_NTASKS");
  if (tasks && std::atoi(tasks) > 1 && std::getenv("SLURM_STEP_ID") && std::getenv("SLURM_PROCID"))
    throw Error(Exit::layout, cat("srun started ", tasks,
                                  " tasks that know nothing of each other: use mpirun, or srun --mpi=pmix"));
  return false;
}

int launched_ranks() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"})
    if (const char* ranks = std::getenv(name)) return std::max(1, std::atoi(ranks));
  // The tasks of a step, not those of the allocation: a batch script's own commands are one process each.
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  return tasks && std::getenv("SLURM_PROCID") ? std::max(1, std::atoi(tasks)) : 1;
}

}  // namespace jambalaya
