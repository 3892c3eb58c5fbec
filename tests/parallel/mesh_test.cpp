// The groups of every layout of the world hold the ranks that they should, in the right order. Runs as one
// rank, and under mpirun as two, four and eight (tests/CMakeLists.txt).
#include "parallel/mesh.h"

#include <functional>

#include "tests/support/link.h"

namespace jambalaya {
namespace {

using test::world;

struct Place {
  int tp, cp, dp, etp, ep, edp;
};

/// Coordinates by counting: the first one runs fastest.
std::vector<Place> places(const Layout& l) {
  std::vector<Place> all;
  for (int dp = 0; dp < l.data; dp++)
    for (int cp = 0; cp < l.context; cp++)
      for (int tp = 0; tp < l.tensor; tp++) all.push_back({.tp = tp, .cp = cp, .dp = dp});
  size_t r = 0;
  for (int edp = 0; edp < expert_data_ranks(l); edp++)
    for (int ep = 0; ep < l.expert; ep++)
      for (int etp = 0; etp < l.expert_tensor; etp++, r++) {
        all[r].etp = etp;
        all[r].ep = ep;
        all[r].edp = edp;
      }
  EXPECT_EQ(r, all.size());
  return all;
}

std::vector<int> members(Communicator& group) {
  std::vector<int> ranks(size_t(group.size()), -1);
  int32_t me = world().rank();
  group.all_gather(make_tensor(&me, {1}), make_tensor(ranks.data(), {group.size()}));
  const bool computes = !group.name().ends_with("_shard") && !group.name().ends_with("_replicas");
  test::Placed<int32_t> mine({me}, computes), all(std::vector<int32_t>(ranks.size(), -1), computes);
  group.all_gather(mine.tensor(), all.tensor());
  EXPECT_EQ(all.values(), ranks) << "of tensors on the device, by " << group.name();
  return ranks;
}

class MeshGroups {
 public:
  explicit MeshGroups(const Layout& layout)
      : mesh_(world().split(0, "world"), layout, test::device_link()), all_(places(mesh_.layout())) {}

  void check() {
    const Place& me = all_[size_t(world().rank())];
    EXPECT_EQ(mesh_.tensor_rank(), me.tp);
    EXPECT_EQ(mesh_.context_rank(), me.cp);
    EXPECT_EQ(mesh_.data_rank(), me.dp);
    EXPECT_EQ(mesh_.expert_tensor_rank(), me.etp);
    EXPECT_EQ(mesh_.expert_rank(), me.ep);
    EXPECT_EQ(mesh_.expert_data_rank(), me.edp);
    expect(mesh_.tensor(), [&](const Place& p) { return p.cp == me.cp && p.dp == me.dp; });
    expect(mesh_.context(), [&](const Place& p) { return p.tp == me.tp && p.dp == me.dp; });
    expect(mesh_.data(), [&](const Place& p) { return p.tp == me.tp && p.cp == me.cp; });
    expect(mesh_.tokens(), [&](const Place& p) { return p.tp == me.tp; });
    expect(mesh_.experts(), [&](const Place& p) { return p.edp == me.edp; });
    expect(mesh_.expert_data(), [&](const Place& p) { return p.ep == me.ep && p.etp == me.etp; });
    EXPECT_EQ(mesh_.context().rank(), me.cp);
    EXPECT_EQ(mesh_.tokens().rank(), me.cp + mesh_.layout().context * me.dp);
    EXPECT_EQ(mesh_.experts().rank(), me.etp + mesh_.layout().expert_tensor * me.ep);
    EXPECT_EQ(mesh_.expert_data().rank(), me.edp);
    check_shards(mesh_.tokens(), mesh_.dense_shard(), mesh_.dense_replicas(),
                 dense_shard_ranks(mesh_.layout()));
    check_shards(mesh_.expert_data(), mesh_.expert_shard(), mesh_.expert_replicas(),
                 expert_shard_ranks(mesh_.layout()));
  }

 private:
  void expect(Communicator& group, const std::function<bool(const Place&)>& belongs) {
    std::vector<int> want;
    for (size_t r = 0; r < all_.size(); r++)
      if (belongs(all_[r])) want.push_back(int(r));
    EXPECT_EQ(members(group), want) << group.name();
  }
  /// Shard groups cut `whole` into runs; replicas hold the same place of every run.
  void check_shards(Communicator& whole, Communicator& shard, Communicator& replicas, int size) {
    const std::vector<int> ranks = members(whole);
    const int run = whole.rank() / size, place = whole.rank() % size;
    EXPECT_EQ(members(shard), std::vector<int>(ranks.begin() + run * size, ranks.begin() + (run + 1) * size));
    std::vector<int> want;
    for (size_t i = size_t(place); i < ranks.size(); i += size_t(size)) want.push_back(ranks[i]);
    EXPECT_EQ(members(replicas), want);
  }

  Mesh mesh_;
  std::vector<Place> all_;
};

/// Every dense and every expert factorisation of the world, each with two of the other kind: the two views do
/// not depend on each other, and making groups is what takes the time.
std::vector<Layout> covering_layouts() {
  std::vector<Layout> dense, expert, all;
  for (const Layout& l : valid_layouts(world().size())) {
    if (l.expert * l.expert_tensor == 1) dense.push_back(l);
    if (l.data == world().size()) expert.push_back(l);
  }
  for (const size_t offset : {size_t(0), expert.size() / 2})
    for (size_t i = 0; i < std::max(dense.size(), expert.size()); i++) {
      Layout l = dense[i % dense.size()];
      l.expert = expert[(i + offset) % expert.size()].expert;
      l.expert_tensor = expert[(i + offset) % expert.size()].expert_tensor;
      all.push_back(l);
    }
  return all;
}

TEST(Mesh, groups_of_every_factorisation_of_this_world) {
  for (const Layout& layout : covering_layouts()) {
    SCOPED_TRACE(describe(layout));
    MeshGroups(layout).check();
  }
}

TEST(Mesh, shard_groups_of_every_size) {
  const int ranks = world().size();
  for (int tensor = 1; tensor <= std::min(ranks, 2); tensor++)
    for (int expert = 1; expert <= ranks; expert *= 2)
      for (int shard = 0; shard <= ranks / tensor; shard++) {
        if (shard && ranks / tensor % shard) continue;
        if (ranks % (tensor * expert)) continue;
        const Layout layout{.tensor = tensor, .expert = expert, .sharding = Sharding::full, .shard = shard};
        SCOPED_TRACE(cat(describe(layout), " shard=", shard));
        MeshGroups(layout).check();
      }
}

TEST(Mesh, refuses_what_does_not_fit_the_world_on_every_rank) {
  for (Layout layout : {Layout{.data = world().size() + 1}, Layout{.tensor = 2 * world().size()}})
    EXPECT_THROW(Mesh(world().split(0, "world"), layout, test::device_link()), Error);
}

TEST(Mesh, groups_of_the_same_ranks_and_thread_keep_one_set_of_buffers) {
  const bool several = test::device_link() && world().size() > 1;
  Mesh data(world().split(0, "world"), {}, test::device_link());
  EXPECT_EQ(data.device_groups(), several ? 2 : 0) << "one for each thread";
  if (world().size() != 4) return;
  // Tensor ranks and data ranks apart: world, tensor, data for the computing thread (expert data ranks are
  // all four), and for the other one those that hold the same dense parameters, and all four.
  Mesh both(world().split(0, "world"), {.tensor = 2}, test::device_link());
  EXPECT_EQ(both.device_groups(), several ? 5 : 0);
}

TEST(Mesh, knows_the_hosts) {
  Mesh mesh(world().split(0, "world"), {}, test::device_link());
  for (int r = 0; r < mesh.size(); r++)
    EXPECT_EQ(mesh.host_of(r), mesh.host_of(0)) << "all run on this machine";
  EXPECT_FALSE(mesh.host_of(0).empty());
  EXPECT_TRUE(mesh.warnings().empty());
}

}  // namespace
}  // namespace jambalaya

int main(int argc, char** argv) { return jambalaya::test::run_ranks(argc, argv); }
