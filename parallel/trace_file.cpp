#include "parallel/trace_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <numeric>
#include <vector>

#include "kernels/trace.h"
#include "parallel/hosts.h"

namespace jambalaya {

namespace {

/// The texts of all ranks in rank order, on rank 0; "" on the others.
std::string gather_text(Communicator& world, std::string& mine) {
  const auto ranks = size_t(world.size());
  int64_t size = int64_t(mine.size());
  std::vector<int64_t> sizes(ranks), send(ranks, 0), receive(ranks, 0);
  world.all_gather(make_tensor(&size, {1}), make_tensor(sizes.data(), {world.size()}));
  send[0] = size;
  if (world.rank() == 0) receive = sizes;
  const int64_t all = std::accumulate(receive.begin(), receive.end(), int64_t(0));
  std::string text(size_t(all), ' ');
  world.all_to_all(make_tensor(mine.data(), DType::u8, {size}), send,
                   make_tensor(text.data(), DType::u8, {all}), receive);
  return text;
}

}  // namespace

void write_trace(Communicator& world, const std::string& path) {
  int64_t origin = trace::started_ns();
  world.broadcast(make_tensor(&origin, {1}), 0);
  std::string mine =
      trace::take_events(world.rank(), cat("rank ", world.rank(), " on ", host_name()), origin);
  const std::string all = gather_text(world, mine);
  int64_t error = 0;
  if (world.rank() == 0) {
    std::ofstream file(path, std::ios::binary);
    file << "[" << all.substr(1) << "\n]\n";  // every element begins with a comma
    file.close();
    if (!file) error = errno ? errno : EIO;
  }
  world.broadcast(make_tensor(&error, {1}), 0);
  if (error) throw Error(Exit::io, cat(path, ": the trace cannot be written: ", std::strerror(int(error))));
}

}  // namespace jambalaya
