// One rank: every collective is a copy or nothing. Also what holds for all communicators.
#include <cstring>

#include "parallel/communicator.h"

namespace jambalaya {

namespace {

class SingleCommunicator final : public Communicator {
 public:
  explicit SingleCommunicator(const std::string& name) : Communicator(name) {}
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce(Tensor, Reduce) override { calls_++; }
  void all_gather(Tensor in, Tensor out) override { copy(in, out); }
  void reduce_scatter(Tensor in, Tensor out) override { copy(in, out); }
  void all_to_all(Tensor in, const std::vector<int64_t>& send, Tensor out,
                  const std::vector<int64_t>& receive) override {
    JAMBALAYA_CHECK(send.size() == 1 && receive == send);
    copy(in.slice_rows(0, send[0]), out.slice_rows(0, send[0]));
  }
  void broadcast(Tensor, int) override { calls_++; }
  void barrier() override { calls_++; }
  std::unique_ptr<Communicator> split(int, const std::string& name) override {
    return std::make_unique<SingleCommunicator>(name);
  }

 private:
  void copy(const Tensor& in, const Tensor& out) {
    calls_++;
    JAMBALAYA_CHECK(in.bytes() == out.bytes() && in.packed() && out.packed());
    if (in.bytes()) std::memmove(out.data, in.data, size_t(in.bytes()));
  }
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<SingleCommunicator>("world");
}

void broadcast_string(Communicator& world, std::string& text, int root) {
  int64_t size = int64_t(text.size());
  world.broadcast(make_tensor(&size, {1}), root);
  text.resize(size_t(size));
  if (size) world.broadcast(make_tensor(reinterpret_cast<uint8_t*>(text.data()), {size}), root);
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
