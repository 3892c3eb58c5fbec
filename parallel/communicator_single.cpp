// One rank: every collective is a copy or nothing, which Communicator does itself.
#include "parallel/communicator.h"

namespace jambalaya {

std::unique_ptr<Communicator> make_single_communicator(const std::string& name) {
  return std::make_unique<Communicator>(name, nullptr);
}

#ifndef JAMBALAYA_HAVE_MPI
std::unique_ptr<Communicator> make_world_communicator() {
  if (launched_by_mpi())
    throw Error(Exit::layout,
                "started as several ranks, but this build has no MPI: configure with -DJAMBALAYA_MPI=ON, or "
                "start one rank without a launcher");
  return make_single_communicator();
}
void finish_world(int) {}
#endif

}  // namespace jambalaya
