// Rows and blocks from every rank to every rank. Runs as one rank and as several (tests/CMakeLists.txt), and
// with tensors on an emulated device over a NCCL that has ncclAlltoAll and one that has not (tests/emulator).
#include <dlfcn.h>

#include <cstdlib>
#include <numeric>

#include "parallel/communicator.h"
#include "tests/support/link.h"

namespace jambalaya {
namespace {

using test::Placed;
using test::world;

/// Element i of what rank `from` sends to rank `to`: no two are alike.
float element(int from, int to, int64_t i) { return float((i * 64 + from) * 64 + to); }

TEST(AllToAll, of_any_counts) {
  const int ranks = world().size(), rank = world().rank(), columns = 3;
  // Rank r sends (r + 2 to) % 4 rows to rank `to`; some pairs exchange nothing. Then nobody sends anything.
  for (int64_t most : {4, 1}) {
    auto rows = [&](int from, int to) { return int64_t(from + 2 * to) % most; };
    std::vector<int64_t> send, receive;
    std::vector<float> in, want;
    for (int r = 0; r < ranks; r++) {
      send.push_back(rows(rank, r));
      receive.push_back(rows(r, rank));
      for (int64_t i = 0; i < columns * send.back(); i++) in.push_back(element(rank, r, i));
      for (int64_t i = 0; i < columns * receive.back(); i++) want.push_back(element(r, rank, i));
    }
    Placed<float> from(in), out(std::vector<float>(want.size()));
    const int64_t sent = std::accumulate(send.begin(), send.end(), int64_t(0)),
                  got = std::accumulate(receive.begin(), receive.end(), int64_t(0));
    world().all_to_all(from.tensor({sent, columns}), send, out.tensor({got, columns}), receive);
    EXPECT_EQ(out.values(), want);
  }
}

/// Four rows of two elements.
std::vector<float> rows_of(int rank) {
  std::vector<float> rows;
  for (int64_t i = 0; i < 4 * 2; i++) rows.push_back(element(rank, 0, i));
  return rows;
}

TEST(AllToAll, the_same_rows_can_go_to_several_ranks) {
  // Everybody gets rows [1, 3) of everybody, and the last rank gets nothing at all.
  const int ranks = world().size(), rank = world().rank(), last = ranks - 1;
  std::vector<float> in = rows_of(rank), want;
  std::vector<int64_t> starts(size_t(ranks), 1), send(size_t(ranks), 2), receive(size_t(ranks), 2);
  if (ranks > 1) send[size_t(last)] = 0;
  if (ranks > 1 && rank == last) receive.assign(size_t(ranks), 0);
  for (int r = 0; r < ranks; r++) {
    const std::vector<float> theirs = rows_of(r);
    if (receive[size_t(r)]) want.insert(want.end(), theirs.begin() + 2, theirs.begin() + 6);
  }
  Placed<float> from(in), out(std::vector<float>(want.size()));
  world().all_to_all(from.tensor({4, 2}), starts, send, out.tensor({int64_t(want.size()) / 2, 2}), receive);
  EXPECT_EQ(out.values(), want);
}

/// How often the made-up NCCL (tests/emulator) was asked for a whole all-to-all; -1 for one that has none, or
/// where nothing of it is loaded.
int nccl_all_to_alls() {
  const char* path = std::getenv("JAMBALAYA_NCCL_LIBRARY");
  void* library = path && test::uses_nccl() ? dlopen(path, RTLD_NOW | RTLD_NOLOAD) : nullptr;
  if (!library || !dlsym(library, "ncclAlltoAll")) return -1;
  return reinterpret_cast<int (*)()>(dlsym(library, "fake_nccl_all_to_alls"))();
}

TEST(AllToAll, of_equal_blocks) {
  const int ranks = world().size(), rank = world().rank();
  const int before = nccl_all_to_alls();
  // On either side of what MPI does in one call, 16 KiB.
  for (int64_t n : {0, 1, 3, 5000}) {
    std::vector<float> in, want;
    for (int r = 0; r < ranks; r++)
      for (int64_t i = 0; i < n; i++) {
        in.push_back(element(rank, r, i));
        want.push_back(element(r, rank, i));
      }
    Placed<float> from(in), to(std::vector<float>(in.size(), -1));
    const int64_t sent = world().count(Collective::all_to_all).bytes;
    world().all_to_all(from.tensor({ranks, n}), to.tensor({ranks, n}));
    EXPECT_EQ(world().count(Collective::all_to_all).bytes - sent, 4 * n * (ranks - 1));
    EXPECT_EQ(to.values(), want) << n << " elements for each rank";
    EXPECT_EQ(from.values(), in);
  }
  // One call each, but for no rows.
  EXPECT_EQ(nccl_all_to_alls(), before < 0 || ranks == 1 ? before : before + 3);
}

}  // namespace
}  // namespace jambalaya

int main(int argc, char** argv) {
  return jambalaya::test::run_ranks(argc, argv, jambalaya::test::attach_world);
}
