// Every collective against the same sums taken by one rank alone, bit for bit. Runs as one rank, and under
// mpirun as two, three and four (tests/CMakeLists.txt), and again with tensors on an emulated device
// (tests/emulator).
#include "parallel/communicator.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <numeric>
#include <thread>

#include "kernels/philox.h"
#include "tests/support/link.h"

namespace jambalaya {
namespace {

using test::make_group;
using test::Placed;
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
  // Around the border of the two algorithms, 16 KiB, and sizes that the ranks do not divide.
  const int64_t edge = (16 << 10) / int64_t(sizeof(TypeParam));
  for (int64_t n : {int64_t(0), int64_t(1), int64_t(7), edge, edge + 1, 3 * edge + 5})
    for (Reduce op : {Reduce::sum, Reduce::max, Reduce::min}) {
      Placed<TypeParam> x(contribution<TypeParam>(world().rank(), n));
      world().all_reduce(x.tensor(), op);
      EXPECT_TRUE(same_bits(x.values(), serial<TypeParam>(op, world().size(), n)))
          << n << " elements, op " << int(op);
    }
}

TYPED_TEST(CommunicatorOf, gather_and_scatter_are_in_rank_order) {
  const int ranks = world().size();
  for (int64_t n : {int64_t(0), int64_t(1), int64_t(3001)}) {
    Placed<TypeParam> mine(contribution<TypeParam>(world().rank(), n)),
        all(std::vector<TypeParam>(size_t(n * ranks)));
    std::vector<TypeParam> want;
    for (int r = 0; r < ranks; r++)
      for (TypeParam v : contribution<TypeParam>(r, n)) want.push_back(v);
    world().all_gather(mine.tensor(), all.tensor());
    EXPECT_TRUE(same_bits(all.values(), want));

    Placed<TypeParam> whole(contribution<TypeParam>(world().rank(), n * ranks)),
        part(std::vector<TypeParam>(size_t(n), TypeParam{}));
    world().reduce_scatter(whole.tensor(), part.tensor());
    const std::vector<TypeParam> sums = serial<TypeParam>(Reduce::sum, ranks, n * ranks);
    const auto from = sums.begin() + long(n * world().rank());
    EXPECT_TRUE(same_bits(part.values(), std::vector<TypeParam>(from, from + long(n))));
  }
}

TEST(Communicator, all_reduce_in_several_slices) {
  const int64_t n = (1 << 24) + 1001;  // slices of 4 MiB
  std::vector<uint8_t> x(size_t(n), 0);
  for (int64_t i = 0; i < n; i++) x[size_t(i)] = uint8_t(i * (world().rank() + 1));
  Placed<uint8_t> placed(std::move(x));
  world().all_reduce(placed.tensor());
  x = placed.values();
  const int64_t factor = int64_t(world().size()) * (world().size() + 1) / 2;
  int64_t wrong = 0;
  for (int64_t i = 0; i < n; i++) wrong += x[size_t(i)] != uint8_t(i * factor);
  EXPECT_EQ(wrong, 0);
}

/// Rows of rank r in the tests of uneven parts: some ranks have none, and once nobody has any.
std::vector<int64_t> uneven_rows(int64_t factor) {
  std::vector<int64_t> rows;
  for (int r = 0; r < world().size(); r++) rows.push_back(factor * ((r * 2 + 1) % 4 == 3 ? 0 : r + 2));
  return rows;
}

TYPED_TEST(CommunicatorOf, uneven_rows_are_gathered_in_rank_order) {
  const int64_t columns = 5;
  for (int64_t factor : {int64_t(0), int64_t(1), int64_t(700)})
    for (bool in_place : {false, true}) {
      const std::vector<int64_t> rows = uneven_rows(factor);
      const int64_t own = rows[size_t(world().rank())],
                    all = std::accumulate(rows.begin(), rows.end(), int64_t(0));
      std::vector<TypeParam> mine = contribution<TypeParam>(world().rank(), own * columns), want;
      std::vector<TypeParam> out(size_t(all * columns), TypeParam{});
      int64_t begin = 0;
      for (int r = 0; r < world().size(); r++) {
        if (r == world().rank()) begin = int64_t(want.size());
        for (TypeParam v : contribution<TypeParam>(r, rows[size_t(r)] * columns)) want.push_back(v);
      }
      if (in_place) std::copy(mine.begin(), mine.end(), out.begin() + long(begin));
      Placed<TypeParam> part(mine), whole(out);
      world().all_gather_rows(in_place ? whole.tensor({own, columns}, begin) : part.tensor({own, columns}),
                              whole.tensor({all, columns}), rows);
      EXPECT_TRUE(same_bits(whole.values(), want)) << "factor " << factor << (in_place ? ", in place" : "");
    }
}

TYPED_TEST(CommunicatorOf, uneven_rows_are_scattered_as_the_serial_sum) {
  const int64_t columns = 3;
  // The last factor needs several slices of the staging buffer, which a device's tensors share.
  const int64_t most = test::on_device() ? 1 << 12 : 1 << 17;
  for (int64_t factor : {int64_t(0), int64_t(1), int64_t(900), most})
    for (bool in_place : {false, true}) {
      const std::vector<int64_t> rows = uneven_rows(factor);
      const int64_t own = rows[size_t(world().rank())] * columns;
      int64_t all = 0, begin = 0;
      for (int r = 0; r < world().size(); r++) {
        if (r == world().rank()) begin = all;
        all += rows[size_t(r)] * columns;
      }
      std::vector<TypeParam> after = contribution<TypeParam>(world().rank(), all);
      const std::vector<TypeParam> sums = serial<TypeParam>(Reduce::sum, world().size(), all);
      Placed<TypeParam> in(after), out(std::vector<TypeParam>(size_t(own), TypeParam{}));
      world().reduce_scatter_rows(
          in.tensor({all / columns, columns}),
          in_place ? in.tensor({own / columns, columns}, begin) : out.tensor({own / columns, columns}), rows);
      const auto sum = sums.begin() + long(begin);
      if (in_place)
        std::copy(sum, sum + long(own), after.begin() + long(begin));
      else
        EXPECT_TRUE(same_bits(out.values(), std::vector<TypeParam>(sum, sum + long(own))))
            << "factor " << factor;
      EXPECT_TRUE(same_bits(in.values(), after)) << "only this rank's part may change";
    }
}

/// NCCL instead rounds at every hop.
TEST(Communicator, bf16_is_summed_in_fp32_and_rounded_once) {
  for (int64_t n : {int64_t(9), int64_t(50001)}) {
    std::vector<bf16> x(size_t(n), bf16{}), part(size_t(n), bf16{});
    std::vector<uint16_t> want;
    bool twice_differs = false;  // rounding after every addition would give other bits: the case can fail
    for (int64_t i = 0; i < n; i++) {
      float sum = 0;
      bf16 rounded{};
      for (int r = 0; r < world().size(); r++) {
        const float v = to_float(to_bf16(element<float>(r, i)));
        sum = r ? sum + v : v;
        rounded = to_bf16(r ? to_float(rounded) + v : v);
      }
      twice_differs |= rounded.bits != to_bf16(sum).bits;
      want.push_back(test::uses_nccl() ? rounded.bits : to_bf16(sum).bits);
      x[size_t(i)] = to_bf16(element<float>(world().rank(), i));
    }
    EXPECT_TRUE(n == 9 || twice_differs == (world().size() > 2));
    std::vector<bf16> in;  // every rank gets the whole sum: the same elements once for each
    for (int r = 0; r < world().size(); r++) in.insert(in.end(), x.begin(), x.end());
    Placed<bf16> all(in), one(part), same(x);
    world().reduce_scatter(all.tensor(), one.tensor());
    world().all_reduce(same.tensor());
    x = same.values(), part = one.values();
    for (size_t i = 0; i < want.size(); i++) {
      ASSERT_EQ(x[i].bits, want[i]) << "all-reduce, element " << i;
      ASSERT_EQ(part[i].bits, want[i]) << "reduce-scatter, element " << i;
    }
  }
}

TEST(Communicator, shift_sends_to_the_right) {
  const int ranks = world().size(), left = (world().rank() + ranks - 1) % ranks;
  // Rank r has r rows; rank 0 sends none.
  for (int64_t factor : {0, 1, 5000}) {
    const std::vector<float> want = contribution<float>(left, factor * left);
    Placed<float> in(contribution<float>(world().rank(), factor * world().rank())),
        out(std::vector<float>(want.size()));
    world().shift(in.tensor(), out.tensor());
    EXPECT_TRUE(same_bits(out.values(), want));
  }
}

/// Address space of `bytes` bytes over and over the same few pages: as large as a test wants, at no cost in
/// memory.
class RepeatedPages {
 public:
  explicit RepeatedPages(int64_t bytes) : bytes_(size_t(bytes)) {
    const int file = memfd_create("pages", 0);
    JAMBALAYA_CHECK(file >= 0 && ftruncate(file, kPeriod) == 0);
    data_ = static_cast<uint8_t*>(
        mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    for (size_t at = 0; at < bytes_; at += kPeriod)
      JAMBALAYA_CHECK(mmap(data_ + at, std::min(kPeriod, bytes_ - at), PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_FIXED, file, 0) != MAP_FAILED);
    close(file);
  }
  ~RepeatedPages() { munmap(data_, bytes_); }
  uint8_t* data() { return data_; }
  static constexpr size_t kPeriod = size_t(4) << 20;

 private:
  size_t bytes_;
  uint8_t* data_;
};

TEST(Communicator, messages_beyond_the_range_of_int) {
  const int ranks = world().size(), rank = world().rank();
  if (ranks != 2) GTEST_SKIP() << "two ranks are enough: it moves gigabytes";
  const int64_t n = (int64_t(1) << 31) + int64_t(RepeatedPages::kPeriod);  // bytes: just more than INT_MAX
  RepeatedPages in(n), out(n);
  const auto value = [](int r, size_t i) { return uint8_t(i * 7 + i / 256 + size_t(r) * 100); };
  for (size_t i = 0; i < RepeatedPages::kPeriod; i++) in.data()[i] = value(rank, i);
  world().shift(make_tensor(in.data(), {n}), make_tensor(out.data(), {n}));
  int64_t wrong = 0;
  for (size_t i = 0; i < RepeatedPages::kPeriod; i++) wrong += out.data()[i] != value(1 - rank, i);
  EXPECT_EQ(wrong, 0) << "shift";
  world().broadcast(make_tensor(out.data(), {n}), 0);
  for (size_t i = 0; i < RepeatedPages::kPeriod; i++) wrong += out.data()[i] != value(1, i);
  EXPECT_EQ(wrong, 0) << "broadcast";
  // Parts of which the second begins beyond INT_MAX.
  world().reduce_scatter_rows(make_tensor(in.data(), {n}), make_tensor(out.data(), {rank ? n - 100 : 100}),
                              {100, n - 100});
  for (size_t i = 0; i < 100; i++)
    wrong += out.data()[i] !=
             (rank ? uint8_t(value(0, i + 100) + value(1, i + 100)) : uint8_t(value(0, i) + value(1, i)));
  EXPECT_EQ(wrong, 0) << "reduce-scatter";
}

TEST(Communicator, broadcast_from_every_root) {
  for (int root = 0; root < world().size(); root++)
    for (int64_t n : {int64_t(0), int64_t(1), int64_t(20000)}) {
      Placed<double> x(contribution<double>(world().rank(), n));
      world().broadcast(x.tensor(), root);
      EXPECT_TRUE(same_bits(x.values(), contribution<double>(root, n)));
    }
  for (const std::string& text : {std::string(), std::string("one"), std::string(70000, 'x')}) {
    std::string s = world().rank() == 0 ? text : "something longer than one that must go";
    broadcast_string(world(), s);
    EXPECT_EQ(s, text);
  }
}

TEST(Communicator, calls_follow_each_other_without_being_waited_for) {
  const int ranks = world().size(), n = 1000;
  Placed<float> sum(contribution<float>(world().rank(), n)), all(std::vector<float>(size_t(n * ranks), 0.0f));
  std::vector<std::unique_ptr<Placed<float>>> sent;
  for (int i = 0; i < 6; i++) {
    sent.push_back(std::make_unique<Placed<float>>(contribution<float>(world().rank(), n, uint64_t(i))));
    world().broadcast(sent.back()->tensor(), i / 3 % ranks);
  }
  world().all_reduce(sum.tensor());
  world().all_gather(sum.tensor(), all.tensor());
  world().reduce_scatter(all.tensor(), sum.tensor());
  for (int i = 0; i < 6; i++)
    EXPECT_TRUE(same_bits(sent[size_t(i)]->values(), contribution<float>(i / 3 % ranks, n, uint64_t(i))))
        << i;
  std::vector<float> want = serial<float>(Reduce::sum, ranks, n), once = want;
  for (int r = 1; r < ranks; r++)
    for (size_t i = 0; i < want.size(); i++) want[i] += once[i];
  EXPECT_TRUE(same_bits(sum.values(), want));
}

TEST(Communicator, groups_are_of_one_colour_in_rank_order) {
  const int color = world().rank() % 2;
  std::unique_ptr<Communicator> group = make_group(color, "parity");
  EXPECT_EQ(group->name(), "parity");
  EXPECT_EQ(group->size(), (world().size() + 1 - color) / 2);
  EXPECT_EQ(group->rank(), world().rank() / 2);
  std::vector<int32_t> members(size_t(group->size()));
  int32_t me = world().rank();
  group->all_gather(make_tensor(&me, {1}), make_tensor(members.data(), {group->size()}));
  for (size_t i = 0; i < members.size(); i++) EXPECT_EQ(members[i], int32_t(2 * i) + color);
  // Groups work at the same time and do not mix with the world's own collectives.
  Placed<int64_t> ours({1}), everyones({1});
  group->all_reduce(ours.tensor());
  world().all_reduce(everyones.tensor());
  EXPECT_EQ(ours.values()[0], group->size());
  EXPECT_EQ(everyones.values()[0], world().size());
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

TEST(Communicator, bytes_are_counted_by_the_formulas) {
  const int64_t s = world().size(), r = world().rank(), n = 10007, width = 4;
  std::unique_ptr<Communicator> group = make_group(0, "counted");
  Placed<float> x(std::vector<float>(size_t(n * s), 0)), y(std::vector<float>(size_t(n * s), 0));
  const Tensor whole = x.tensor(), part = y.tensor({n}), other = y.tensor();
  const auto sent = [&](Collective kind) {
    const CollectiveCount count = group->count(kind);
    EXPECT_EQ(count.calls, 1) << name_of(kind);
    return count.bytes;
  };
  group->all_reduce(x.tensor({n}));
  const int64_t own = n * (r + 1) / s - n * r / s;
  EXPECT_EQ(sent(Collective::all_reduce), width * (n - own + own * (s - 1)));
  int64_t total = sent(Collective::all_reduce);
  world().all_reduce(make_tensor(&total, {1}));
  EXPECT_EQ(total, 2 * width * n * (s - 1));
  group->all_gather(part, whole);
  EXPECT_EQ(sent(Collective::all_gather), width * n * (s - 1));
  group->reduce_scatter(whole, part);
  EXPECT_EQ(sent(Collective::reduce_scatter), width * n * (s - 1));
  const std::vector<int64_t> each(size_t(s), n);
  group->all_to_all(whole, each, other, each);
  EXPECT_EQ(sent(Collective::all_to_all), width * n * (s - 1));
  group->shift(part, x.tensor({n}));
  EXPECT_EQ(sent(Collective::shift), s > 1 ? width * n : 0);
  group->broadcast(part, 0);
  EXPECT_EQ(sent(Collective::broadcast), r == 0 ? width * n * (s - 1) : 0);
  group->barrier();
  EXPECT_EQ(sent(Collective::barrier), 0);
  EXPECT_EQ(group->calls(), 7);
  int64_t sum = 0;
  for (size_t kind = 0; kind < kCollectives; kind++) sum += group->count(Collective(kind)).bytes;
  EXPECT_EQ(group->bytes(), sum);
}

TEST(Communicator, two_threads_use_two_groups_at_the_same_time) {
  std::unique_ptr<Communicator> one = make_group(0, "one", false), two = make_group(0, "two");
  const int64_t n = 30000;
  const std::vector<float> want = serial<float>(Reduce::sum, world().size(), n);
  const std::vector<float> mine = contribution<float>(world().rank(), n);
  // Memory comes and goes outside of the threads: freeing it waits for the whole device, and so for other
  // ranks.
  Placed<float> there(mine, false), here(mine);
  const auto work = [&](Communicator& group, Placed<float>& x, int64_t& wrong) {
    for (int i = 0; i < 30; i++) {
      x.assign(mine);
      group.all_reduce(x.tensor());
      wrong += !same_bits(x.values(), want);
    }
  };
  int64_t wrong_there = 0, wrong_here = 0;
  std::thread other([&] { work(*one, there, wrong_there); });
  work(*two, here, wrong_here);
  other.join();
  EXPECT_EQ(wrong_there + wrong_here, 0);
}

TEST(Communicator, shapes_that_do_not_fit_are_refused_before_anything_is_sent) {
  std::vector<float> a(8), b(size_t(8 * world().size() + 1));
  EXPECT_THROW(world().all_gather(make_tensor(a.data(), {8}), make_tensor(b.data(), {int64_t(b.size())})),
               std::exception);
  EXPECT_THROW(world().reduce_scatter(make_tensor(b.data(), {int64_t(b.size())}), make_tensor(a.data(), {8})),
               std::exception);
  const std::vector<int64_t> eight(size_t(world().size()), 8), nine(size_t(world().size()), 9);
  const Tensor all = make_tensor(b.data(), {8 * world().size()});
  EXPECT_THROW(world().all_gather_rows(make_tensor(a.data(), {8}), all, nine), std::exception);
  EXPECT_THROW(world().reduce_scatter_rows(all, make_tensor(a.data(), {8}), nine), std::exception);
  EXPECT_THROW(world().all_to_all(all, nine, all, eight), std::exception);
  EXPECT_THROW(world().all_to_all(make_tensor(a.data(), {8}), nine, eight, all, eight), std::exception);
  EXPECT_THROW(world().all_to_all(all, make_tensor(a.data(), {7})), std::exception);
  EXPECT_THROW(world().all_to_all(all, all), std::exception) << "in place";
  EXPECT_THROW(world().broadcast(all, world().size()), std::exception);
  uint16_t bits = 0;
  EXPECT_THROW(world().all_reduce(make_tensor(&bits, {1})), std::exception);
  int64_t still_together = 1;
  world().all_reduce(make_tensor(&still_together, {1}));
  EXPECT_EQ(still_together, world().size());
}

}  // namespace
}  // namespace jambalaya

int main(int argc, char** argv) {
  return jambalaya::test::run_ranks(argc, argv, jambalaya::test::attach_world);
}
