// One rank: every collective is a copy or nothing, which Communicator does itself.
#include "parallel/communicator.h"

namespace jambalaya {

namespace {

class SingleCommunicator final : public Communicator {
 public:
  explicit SingleCommunicator(const std::string& name) : Communicator(name, 0, 1) {}

 private:
  void do_all_reduce(Tensor, Reduce) override {}
  void do_all_gather(Tensor, Tensor, const std::vector<int64_t>&) override {}
  void do_reduce_scatter(Tensor, Tensor, const std::vector<int64_t>&) override {}
  void do_all_to_all(Tensor, const std::vector<int64_t>&, const std::vector<int64_t>&, Tensor,
                     const std::vector<int64_t>&) override {}
  void do_shift(Tensor, Tensor) override {}
  void do_broadcast(Tensor, int) override {}
  void do_barrier() override {}
  std::unique_ptr<Communicator> do_split(int, const std::string& name) override {
    return make_single_communicator(name);
  }
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator(const std::string& name) {
  return std::make_unique<SingleCommunicator>(name);
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
