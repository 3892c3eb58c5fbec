// Gradients reduced in buckets while the backward goes on equal one sum over everything, bit for bit.
#include "parallel/reducer.h"

#include <atomic>
#include <numeric>

#include "kernels/philox.h"
#include "parallel/mesh.h"
#include "tests/support/link.h"

namespace jambalaya {
namespace {

using test::device_link;
using test::Placed;
using test::world;

std::vector<float> gradients_of(int rank, int64_t n) {
  std::vector<float> g(size_t(n), 0.0f);
  for (int64_t i = 0; i < n; i++)
    g[size_t(i)] =
        (uniform_at(hash_name(uint64_t(rank), "gradient"), uint64_t(i)) - 0.5f) * float(1 + i % 1000);
  return g;
}

class Reducer : public testing::Test {
 protected:
  // Sizes as of a model's layers: some large, one empty, one of a single element.
  const std::vector<int64_t> sizes{3000, 1, 5000, 0, 20000, 700, 64};
  int64_t total() const { return std::accumulate(sizes.begin(), sizes.end(), int64_t(0)); }
  std::vector<GradientReducer::Range> groups() const {
    std::vector<GradientReducer::Range> r;
    for (int64_t n : sizes) r.push_back({r.empty() ? 0 : r.back().end, (r.empty() ? 0 : r.back().end) + n});
    return r;
  }
  std::vector<float> expected() const {
    std::vector<float> sum = gradients_of(0, total());
    for (int r = 1; r < world().size(); r++) {
      const std::vector<float> more = gradients_of(r, total());
      for (size_t i = 0; i < sum.size(); i++) sum[i] += more[i];
    }
    return sum;
  }
};

TEST_F(Reducer, buckets_of_any_size_and_any_order_give_the_same_sums) {
  std::unique_ptr<Communicator> data = test::make_group(0, "data", false);
  const std::vector<float> want = expected();
  const std::vector<std::vector<int>> orders{
      {6, 5, 4, 3, 2, 1, 0}, {5, 4, 3, 2, 1, 0, 6}, {0, 2, 4, 6, 1, 3, 5}, {3}, {}};
  for (int64_t bucket : {int64_t(4), int64_t(12000), int64_t(100000), int64_t(1) << 40})
    for (const std::vector<int>& order : orders) {
      Placed<float> g(gradients_of(world().rank(), total()));
      CommunicationQueue queue(device_link());
      GradientReducer reducer(queue, *data, g.tensor(), groups(), bucket);
      reducer.begin();
      for (int group : order) reducer.ready(group);
      reducer.flush();  // sends groups that were never called ready, too
      queue.drain();
      EXPECT_TRUE(g.values() == want)
          << "bucket " << bucket << ", first of the order " << (order.empty() ? -1 : order[0]);
    }
}

TEST_F(Reducer, serves_many_steps) {
  std::unique_ptr<Communicator> data = test::make_group(0, "data", false);
  Placed<float> g(std::vector<float>(size_t(total()), 0.0f));
  CommunicationQueue queue(device_link());
  GradientReducer reducer(queue, *data, g.tensor(), groups(), 8000);
  for (int step = 0; step < 3; step++) {
    g.assign(gradients_of(world().rank(), total()));
    reducer.begin();
    for (int group = 6; group >= 0; group--) reducer.ready(group);
    reducer.flush();
    queue.drain();
    EXPECT_TRUE(g.values() == expected()) << step;
  }
}

TEST_F(Reducer, neighbours_travel_together) {
  std::unique_ptr<Communicator> data = test::make_group(0, "data", false);
  auto calls = [&](int64_t bucket) {
    Placed<float> g(gradients_of(world().rank(), total()));
    CommunicationQueue queue(device_link());
    GradientReducer reducer(queue, *data, g.tensor(), groups(), bucket);
    const int64_t before = data->calls();
    reducer.begin();
    for (int group = 6; group >= 0; group--) reducer.ready(group);
    reducer.flush();
    queue.drain();
    return data->calls() - before;
  };
  const bool alone = world().size() == 1;
  EXPECT_EQ(calls(int64_t(1) << 40), alone ? 0 : 1);
  EXPECT_EQ(calls(4), alone ? 0 : 6);          // every group that has elements
  EXPECT_EQ(calls(4 * 20000), alone ? 0 : 2);  // 64 + 700 + 20000 fill one bucket, the rest goes at the end
}

TEST_F(Reducer, groups_must_tile_the_gradients) {
  CommunicationQueue queue(device_link());
  std::vector<float> g(10);
  const Tensor x = make_tensor(g.data(), {10});
  EXPECT_THROW(GradientReducer(queue, world(), x, {{0, 4}, {5, 10}}, 1), std::exception);
  EXPECT_THROW(GradientReducer(queue, world(), x, {{0, 4}, {4, 9}}, 1), std::exception);
}

TEST(CommunicationQueue, runs_jobs_in_order_and_waits_for_all) {
  CommunicationQueue queue(device_link());
  std::vector<int> done;
  for (int i = 0; i < 100; i++) queue.push([&done, i] { done.push_back(i); });
  queue.drain();
  ASSERT_EQ(done.size(), 100u);
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
  queue.drain();  // nothing to wait for
}

TEST(CommunicationQueue, a_job_can_be_waited_for_by_its_number) {
  CommunicationQueue queue(device_link());
  std::atomic<bool> go{false};
  std::atomic<int> done{0};
  const int64_t first = queue.push([&] { done++; });
  const int64_t second = queue.push([&] {
    while (!go) std::this_thread::yield();
    done++;
  });
  queue.wait(0);  // none
  queue.wait(first);
  EXPECT_EQ(done, 1);
  go = true;
  queue.wait(second);
  EXPECT_EQ(done, 2);
}

TEST(CommunicationQueue, what_jobs_enqueue_comes_between_push_and_wait) {
  // The computing thread writes, a job copies that elsewhere with its own context, the computing thread goes
  // on with the copy and then writes anew.
  CommunicationQueue queue(device_link());
  Placed<int32_t> a({0, 0, 0}), b({-1, -1, -1});
  const Tensor from = a.tensor(), to = b.tensor();
  for (int32_t i = 1; i < 200; i++) {  // more than there are events for
    a.assign({i, 2 * i, 3 * i});
    const int64_t job = queue.push([&, waits = i % 3 == 0] {
      copy(queue.context(), from, to);
      if (waits) synchronize(queue.context());
    });
    queue.wait(job);
    clear(test::copying_context(), from);
    if (i % 50 && i > 6) continue;
    EXPECT_EQ(b.values(), (std::vector<int32_t>{i, 2 * i, 3 * i}));
  }
}

TEST(CommunicationQueue, after_a_failed_job_none_runs_and_all_who_ask_are_told) {
  CommunicationQueue queue(device_link());
  std::atomic<bool> go{false};
  int later = 0;
  queue.push([&] {
    while (!go) std::this_thread::yield();
    throw Error(Exit::peer_lost, "gone");
  });
  queue.push([&] { later++; });
  go = true;
  EXPECT_THROW(queue.drain(), Error);
  EXPECT_THROW(queue.push([&] { later++; }), Error);
  EXPECT_THROW(queue.wait(0), Error);
  EXPECT_THROW(queue.drain(), Error);
  EXPECT_EQ(later, 0);
}

}  // namespace
}  // namespace jambalaya

int main(int argc, char** argv) {
  return jambalaya::test::run_ranks(argc, argv, jambalaya::test::attach_world);
}
