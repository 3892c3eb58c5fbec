// Every collective against the same sums taken by one rank alone, bit for bit. Runs as one rank, and under
// mpirun as two, three and four (tests/CMakeLists.txt).
#include "parallel/communicator.h"

#include <cstring>
#include <numeric>

#include "kernels/philox.h"
#include "tests/support/ranks.h"

namespace jambalaya {
namespace {

using test::world;

/// Element i of rank r's contribution: any rank can say what any other has. Magnitudes differ by eight
/// orders, so that another order of the same float additions would give other bits.
template <class T>
T element(int rank, int64_t i, uint64_t salt = 0) {
  const uint64_t key = hash_name(salt, "element") + uint64_t(rank);
  const float u = 2 * uniform_at(key, uint64_t(i)) - 1;
  if constexpr (std::is_floating_point_v<T>)
    return T(u) * T(std::pow(10.0, double((i * 7 + rank * 3) % 9 - 4)));
  else
    return T(u * 100 + 50);
}
template <class T>
std::vector<T> contribution(int rank, int64_t n, uint64_t salt = 0) {
  std::vector<T> v(size_t(n), T{});
  for (int64_t i = 0; i < n; i++) v[size_t(i)] = element<T>(rank, i, salt);
  return v;
}
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}
template <class T>
std::vector<T> serial(Reduce op, int ranks, int64_t n) {
  std::vector<T> v = contribution<T>(0, n);
  for (int r = 1; r < ranks; r++) {
    const std::vector<T> more = contribution<T>(r, n);
    for (size_t i = 0; i < v.size(); i++)
      v[i] = op == Reduce::sum   ? T(v[i] + more[i])
             : op == Reduce::max ? std::max(v[i], more[i])
                                 : std::min(v[i], more[i]);
  }
  return v;
}

template <class T>
class CommunicatorOf : public testing::Test {};
using Types = testing::Types<float, double, int32_t, int64_t, uint8_t>;
TYPED_TEST_SUITE(CommunicatorOf, Types);

TYPED_TEST(CommunicatorOf, all_reduce_is_the_serial_sum_in_rank_order) {
  // Around both borders of the two algorithms: 16 KiB, and parts that do not divide among the ranks.
  const int64_t edge = (16 << 10) / int64_t(sizeof(TypeParam));
  for (int64_t n : {int64_t(0), int64_t(1), int64_t(7), edge, edge + 1, 3 * edge + 5})
    for (Reduce op : {Reduce::sum, Reduce::max, Reduce::min}) {
      std::vector<TypeParam> x = contribution<TypeParam>(world().rank(), n);
      world().all_reduce(make_tensor(x.data(), {n}), op);
      EXPECT_TRUE(same_bits(x, serial<TypeParam>(op, world().size(), n))) << n << " elements, op " << int(op);
    }
}

TYPED_TEST(CommunicatorOf, gather_and_scatter_are_in_rank_order) {
  const int ranks = world().size();
  for (int64_t n : {int64_t(0), int64_t(1), int64_t(3001)}) {
    std::vector<TypeParam> mine = contribution<TypeParam>(world().rank(), n), all(size_t(n * ranks)), want;
    for (int r = 0; r < ranks; r++)
      for (TypeParam v : contribution<TypeParam>(r, n)) want.push_back(v);
    world().all_gather(make_tensor(mine.data(), {n}), make_tensor(all.data(), {n * ranks}));
    EXPECT_TRUE(same_bits(all, want));

    std::vector<TypeParam> whole = contribution<TypeParam>(world().rank(), n * ranks),
                           part(size_t(n), TypeParam{});
    world().reduce_scatter(make_tensor(whole.data(), {n * ranks}), make_tensor(part.data(), {n}));
    const std::vector<TypeParam> sums = serial<TypeParam>(Reduce::sum, ranks, n * ranks);
    const auto from = sums.begin() + long(n * world().rank());
    EXPECT_TRUE(same_bits(part, std::vector<TypeParam>(from, from + long(n))));
  }
}

TEST(Communicator, all_reduce_of_more_than_one_piece) {
  const int64_t n = (1 << 24) + 1001;  // pieces of 2^24 elements
  std::vector<uint8_t> x(size_t(n), 0);
  for (int64_t i = 0; i < n; i++) x[size_t(i)] = uint8_t(i * (world().rank() + 1));
  world().all_reduce(make_tensor(x.data(), {n}));
  const int64_t factor = int64_t(world().size()) * (world().size() + 1) / 2;
  int64_t wrong = 0;
  for (int64_t i = 0; i < n; i++) wrong += x[size_t(i)] != uint8_t(i * factor);
  EXPECT_EQ(wrong, 0);
}

TEST(Communicator, all_to_all_of_any_counts) {
  const int ranks = world().size(), rank = world().rank(), columns = 3;
  // Rank r sends (r + 2 to) % 4 rows to rank `to`; some pairs exchange nothing. Then nobody sends anything.
  for (int64_t most : {4, 1}) {
    auto rows = [&](int from, int to) { return int64_t(from + 2 * to) % most; };
    std::vector<int64_t> send, receive;
    std::vector<float> in, want;
    for (int r = 0; r < ranks; r++) {
      send.push_back(rows(rank, r));
      receive.push_back(rows(r, rank));
      for (int64_t i = 0; i < columns * send.back(); i++) in.push_back(element<float>(rank, i, uint64_t(r)));
      for (int64_t i = 0; i < columns * receive.back(); i++)
        want.push_back(element<float>(r, i, uint64_t(rank)));
    }
    std::vector<float> out(want.size());
    const int64_t sent = std::accumulate(send.begin(), send.end(), int64_t(0)),
                  got = std::accumulate(receive.begin(), receive.end(), int64_t(0));
    world().all_to_all(make_tensor(in.data(), {sent, columns}), send, make_tensor(out.data(), {got, columns}),
                       receive);
    EXPECT_TRUE(same_bits(out, want));
  }
}

TEST(Communicator, broadcast_from_every_root) {
  for (int root = 0; root < world().size(); root++)
    for (int64_t n : {int64_t(0), int64_t(1), int64_t(20000)}) {
      std::vector<double> x = contribution<double>(world().rank(), n);
      world().broadcast(make_tensor(x.data(), {n}), root);
      EXPECT_TRUE(same_bits(x, contribution<double>(root, n)));
    }
  for (const std::string& text : {std::string(), std::string("one"), std::string(70000, 'x')}) {
    std::string s = world().rank() == 0 ? text : "something longer than one that must go";
    broadcast_string(world(), s);
    EXPECT_EQ(s, text);
  }
}

TEST(Communicator, groups_are_of_one_colour_in_rank_order) {
  const int color = world().rank() % 2;
  std::unique_ptr<Communicator> group = world().split(color, "parity");
  EXPECT_EQ(group->name(), "parity");
  EXPECT_EQ(group->size(), (world().size() + 1 - color) / 2);
  EXPECT_EQ(group->rank(), world().rank() / 2);
  std::vector<int32_t> members(size_t(group->size()));
  int32_t me = world().rank();
  group->all_gather(make_tensor(&me, {1}), make_tensor(members.data(), {group->size()}));
  for (size_t i = 0; i < members.size(); i++) EXPECT_EQ(members[i], int32_t(2 * i) + color);
  // Groups work at the same time and do not mix with the world's own collectives.
  int64_t ours = 1, everyones = 1;
  group->all_reduce(make_tensor(&ours, {1}));
  world().all_reduce(make_tensor(&everyones, {1}));
  EXPECT_EQ(ours, group->size());
  EXPECT_EQ(everyones, world().size());
}

TEST(Communicator, calls_are_numbered_alike_on_all_ranks) {
  const int64_t before = world().calls();
  int64_t x = 0;
  world().barrier();
  world().all_reduce(make_tensor(&x, {1}));
  world().broadcast(make_tensor(&x, {1}), 0);
  EXPECT_EQ(world().calls(), before + 3);
  int64_t largest = world().calls(), smallest = largest;
  world().all_reduce(make_tensor(&largest, {1}), Reduce::max);
  world().all_reduce(make_tensor(&smallest, {1}), Reduce::min);
  EXPECT_EQ(largest, smallest);
}

TEST(Communicator, shapes_that_do_not_fit_are_refused_before_anything_is_sent) {
  std::vector<float> a(8), b(size_t(8 * world().size() + 1));
  EXPECT_THROW(world().all_gather(make_tensor(a.data(), {8}), make_tensor(b.data(), {int64_t(b.size())})),
               std::exception);
  EXPECT_THROW(world().reduce_scatter(make_tensor(b.data(), {int64_t(b.size())}), make_tensor(a.data(), {8})),
               std::exception);
  int64_t still_together = 1;
  world().all_reduce(make_tensor(&still_together, {1}));
  EXPECT_EQ(still_together, world().size());
}

}  // namespace
}  // namespace jambalaya

int main(int argc, char** argv) { return jambalaya::test::run_ranks(argc, argv); }
