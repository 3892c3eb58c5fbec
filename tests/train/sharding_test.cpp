// Sharding of optimizer state, gradients and parameters changes where numbers lie, not what they are: every
// mode trains as one rank does, and a checkpoint of one is continued by any other.
#include <bit>
#include <numeric>

#include "model/gather_tensor.h"
#include "model/parameter_sync.h"
#include "tests/support/layout.h"
#include "tests/support/temporary_folder.h"
#include "train/run/copies.h"
#include "train/run/optimizer.h"
#include "train/run/persistence.h"

namespace jambalaya {
namespace {

using test::TestBatch;
using test::world;

/// Sizes that divide by nothing where they need not, a bias in every place, few key heads.
ModelConfig model(bool tied = false) {
  ModelConfig c = test::small_model();
  c.hidden_size = 16;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 1;
  c.mamba_proj_bias = true;
  c.tie_word_embeddings = tied;
  return c;
}

OptimizerSection settings() {
  OptimizerSection o;
  // A gradient that is nearly zero must not become a whole step by its sign.
  o.eps = 1e-3;
  o.weight_decay = 0.1;
  o.clip = 0.5;
  return o;
}

/// A model under a layout with all that trains it.
struct Worker {
  Worker(std::unique_ptr<Communicator> ranks, const Layout& layout, const ModelConfig& config,
         Precision precision)
      : context(1, "", int64_t(1) << 34),
        mesh(std::move(ranks), layout, test::device_link()),
        parameters(config, precision, true, placement_of(mesh), test::accelerator_or_none()),
        sync(parameters, mesh, 4096),
        regions(mesh),
        jamba(parameters, regions),
        optimizer(parameters, settings()) {
    context.on.run_ahead();
    jamba.on_gradients = [this](int layer) { sync.gradients_ready(layer); };
    parameters.initialize(3);
    parameters.refresh_compute(context);
    sync.refresh();
  }

  /// One update on `batches`, each shared out to data ranks by documents; the objective of all of them.
  double step(const std::vector<TestBatch>& batches) {
    double counted = 0;
    test::DeviceVector<double> sums(kLossSums, 0.0);
    for (const TestBatch& batch : batches) counted += double(batch.counted());
    LossScale scale{1 / counted, 1.0 / double(batches.size()), double(batches[0].tokens())};
    parameters.zero_gradients(context);
    for (size_t i = 0; i < batches.size(); i++) {
      const size_t n = batches[i].lengths.size(), d = size_t(mesh.data_rank()),
                   all = size_t(mesh.layout().data);
      const TestBatch own = test::documents_of(batches[i], n * d / all, n * (d + 1) / all);
      sync.begin_backward(i + 1 == batches.size());
      jamba.train(context, own.view(), scale, make_tensor(sums.data(), {kLossSums}));
    }
    sync.finish();
    norm = optimizer.gradient_norm(context, mesh.world());
    optimizer.step(context, 1e-2, norm);
    sync.refresh();
    synchronize(context);
    mesh.tokens().all_reduce(make_tensor(sums.data(), {kLossSums}));
    sums[kAux] /= mesh.tokens().size();
    sums[kRouterZ] /= mesh.tokens().size();
    return objective(parameters.config(), sums.data(), scale);
  }

  test::TestContext context;
  Mesh mesh;
  Parameters parameters;
  ParameterSync sync;
  Regions regions;
  Jamba jamba;
  Optimizer optimizer;
  double norm = 0;
};

std::unique_ptr<Worker> worker(const Layout& layout, const ModelConfig& config, Precision precision) {
  return std::make_unique<Worker>(world().split(0, "test"), layout, config, precision);
}
std::unique_ptr<Worker> one_rank(const ModelConfig& config, Precision precision) {
  return std::make_unique<Worker>(make_single_communicator(), Layout{}, config, precision);
}

std::vector<TestBatch> batches_of(int step, int micro_batches) {
  std::vector<TestBatch> all;
  for (int i = 0; i < micro_batches; i++)
    all.emplace_back(std::vector<int64_t>{5, 1, 7, 3, 6, 2}, 13, uint64_t(step * 10 + i));
  return all;
}

struct Course {
  std::vector<double> losses, norms;
  void follow(Worker& w, int first, int last, int micro_batches) {
    for (int s = first; s < last; s++) {
      losses.push_back(w.step(batches_of(s, micro_batches)));
      norms.push_back(w.norm);
    }
  }
};

std::vector<std::vector<float>> tensors(Worker& w) {
  std::vector<std::vector<float>> all;
  for (const Tensor& owned :
       {w.parameters.owned_master(), w.optimizer.first_moments(), w.optimizer.second_moments()})
    for (size_t i = 0; i < w.parameters.table().size(); i++)
      all.push_back(gather_tensor(w.parameters, owned, int(i), w.mesh.world()));
  return all;
}

/// Layouts of this many ranks, in each mode.
std::vector<Layout> layouts() {
  const int n = world().size();
  std::vector<Layout> all;
  for (Sharding mode : {Sharding::none, Sharding::optimizer, Sharding::full}) {
    all.push_back({.sharding = mode});
    if (n % 2) continue;
    all.push_back({.expert = 2, .sharding = mode});
    all.push_back({.tensor = 2, .sharding = mode});
    if (n < 4) continue;
    all.push_back({.tensor = 2, .expert = 2, .sharding = mode, .sequence = false});
    if (mode == Sharding::none) continue;
    all.push_back({.sharding = mode, .shard = 2});               // two replicas of each range
    all.push_back({.expert = 2, .sharding = mode, .shard = 2});  // and experts that are not sharded
  }
  return all;
}

std::string name_of(const Layout& l) {
  return cat(describe(l), " sharding=", int(l.sharding), " shard=", l.shard, " sequence=", l.sequence);
}

/// Tolerances of sums in another order, over ten updates.
void expect_same_course(const Course& got, const Course& want, double tolerance, const std::string& what) {
  ASSERT_EQ(got.losses.size(), want.losses.size());
  for (size_t i = 0; i < got.losses.size(); i++) {
    EXPECT_NEAR(got.losses[i], want.losses[i], tolerance * std::abs(want.losses[i]))
        << what << ", step " << i;
    EXPECT_NEAR(got.norms[i], want.norms[i], 10 * tolerance * want.norms[i]) << what << ", step " << i;
  }
}
void expect_same_tensors(Worker& got, Worker& want, double tolerance, const std::string& what) {
  const std::vector<std::vector<float>> a = tensors(got), b = tensors(want);
  const std::vector<ParameterRow>& table = got.parameters.table();
  for (size_t i = 0; i < a.size(); i++)
    EXPECT_LE(test::relative_error(a[i], b[i], 1e-5), tolerance)
        << what << ", " << table[i % table.size()].name;
}

TEST(Sharding, every_mode_starts_as_one_rank_to_the_bit) {
  auto want = one_rank(model(), Precision::f32);
  for (const Layout& layout : layouts()) {
    auto got = worker(layout, model(), Precision::bf16);
    EXPECT_TRUE(tensors(*got) == tensors(*want)) << name_of(layout);
  }
}

TEST(Sharding, every_mode_trains_as_one_rank) {
  for (bool tied : {false, true})
    for (Precision precision : {Precision::f32, Precision::bf16}) {
      auto one = one_rank(model(tied), precision);
      Course want;
      want.follow(*one, 0, 10, 2);
      // bf16 activations differ by whole roundings where fp32 sums differ in their last bit.
      const double tolerance = precision == Precision::f32 ? 2e-5 : 2e-2;
      for (const Layout& layout : layouts()) {
        const std::string what =
            cat(name_of(layout), tied ? " tied" : "", precision == Precision::bf16 ? " bf16" : "");
        auto many = worker(layout, model(tied), precision);
        Course got;
        got.follow(*many, 0, 10, 2);
        expect_same_course(got, want, tolerance, what);
        expect_same_tensors(*many, *one, 10 * tolerance, what);
      }
    }
}

TEST(Sharding, modes_differ_in_no_bit) {
  // With one micro-batch the sums are the same sums; full sharding adds ranks before micro-batches.
  for (int micro_batches : {1, 2}) {
    auto none = worker({.sharding = Sharding::none}, model(), Precision::f32);
    Course want;
    want.follow(*none, 0, 10, micro_batches);
    for (Sharding mode : {Sharding::optimizer, Sharding::full}) {
      if (mode == Sharding::full && micro_batches > 1) continue;
      auto sharded = worker({.sharding = mode}, model(), Precision::f32);
      Course got;
      got.follow(*sharded, 0, 10, micro_batches);
      EXPECT_EQ(got.losses, want.losses) << int(mode);
      EXPECT_TRUE(tensors(*sharded) == tensors(*none)) << int(mode);
    }
  }
}

TEST(Sharding, checkpoints_go_from_any_mode_to_any_other) {
  std::unique_ptr<test::TemporaryFolder> temporary;
  std::string folder;
  if (world().rank() == 0) temporary = std::make_unique<test::TemporaryFolder>(), folder = temporary->path();
  broadcast_string(world(), folder);
  auto one = one_rank(model(), Precision::f32);
  Course want;
  want.follow(*one, 0, 6, 1);
  const std::vector<Layout> all = layouts();
  for (size_t i = 0; i < all.size(); i++) {
    const Layout &from = all[i], &to = all[(i + all.size() / 2) % all.size()];
    Course got;
    std::string path;
    int64_t steps = 0;
    std::vector<std::vector<float>> saved;
    {
      auto first = worker(from, model(), Precision::f32);
      got.follow(*first, 0, 3, 1);
      steps = first->optimizer.steps();
      saved = tensors(*first);
      path =
          save_checkpoint(world(), cat(folder, "/", i), boxes_to_write(first->parameters, &first->optimizer),
                          TrainState{}, model(), false);
    }
    const CheckpointInfo info = open_checkpoint(path);
    auto second = worker(to, model(), Precision::f32);
    load_tensors(second->context, info, second->parameters, &second->optimizer);
    second->optimizer.set_steps(steps);
    second->sync.refresh();
    EXPECT_TRUE(tensors(*second) == saved) << name_of(from) << " to " << name_of(to);
    got.follow(*second, 3, 6, 1);
    expect_same_course(got, want, 2e-5, name_of(from) + " to " + name_of(to));
  }
  world().barrier();
}

/// First slice of a row that other ranks hold too; null: none does.
const OwnedSlice* held_by_others(const Parameters& p) {
  for (const OwnedSlice& slice : p.owned()) {
    const ParameterRow& row = p.table()[size_t(slice.row)];
    if (copies(row, p.ranks()) > 1 || shard_group(row, p.ranks()).replicas > 1) return &slice;
  }
  return nullptr;
}

std::string drift_of(Worker& w) {
  try {
    check_copies(w.parameters, w.mesh.world());
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::failed);
    return e.what();
  }
  return "";
}

TEST(Sharding, copies_stay_the_same_bits_and_one_bit_of_drift_is_named) {
  int found = 0;
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(name_of(layout));
    auto w = worker(layout, model(), Precision::f32);
    Course course;
    course.follow(*w, 0, 3, 2);
    EXPECT_EQ(drift_of(*w), "");
    const OwnedSlice* slice = held_by_others(w->parameters);
    const bool last = world().rank() == world().size() - 1;
    std::string name = slice ? w->parameters.table()[size_t(slice->row)].name : "";
    broadcast_string(world(), name, world().size() - 1);
    if (name.empty()) continue;
    found++;
    const auto flip_a_bit = [&] {
      if (!last) return;
      const int64_t at = slice->end - 1 - slice->begin + slice->at;
      const Tensor element = w->parameters.owned_master().slice_rows(at, at + 1);
      std::vector<float> value = test::copied(element);
      value[0] = std::bit_cast<float>(std::bit_cast<uint32_t>(value[0]) ^ 1);
      test::assign(element, value);
    };
    flip_a_bit();
    const std::string told = drift_of(*w);
    EXPECT_NE(told.find(" " + name + " on rank"), std::string::npos) << told;
    EXPECT_NE(told.find(cat(world().size() - 1)), std::string::npos) << told;
    flip_a_bit();
    EXPECT_EQ(drift_of(*w), "");
  }
  EXPECT_EQ(found > 0, world().size() > 1);
}

// ---- memory and traffic, by formula ----

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

TEST(Sharding, memory_is_what_the_formulas_say) {
  const int64_t shards = world().size();
  for (Sharding mode : {Sharding::none, Sharding::optimizer, Sharding::full})
    for (Precision precision : {Precision::f32, Precision::bf16}) {
      auto w = worker({.sharding = mode}, model(), precision);
      w->step(batches_of(0, 1));
      int64_t whole = 0, copied = 0;  // elements with padding; those read as bf16
      std::vector<int64_t> unit_values(5, 0), unit_gradients(5, 0);
      for (const Part& part : w->parameters.parts()) {
        whole += part.size;
        if (part.compute) copied += part.size;
        unit_values[size_t(part.unit)] +=
            round_up(part.size * (part.compute ? 2 : 4), test::arena_alignment());
        unit_gradients[size_t(part.unit)] += part.size * 4;
      }
      const bool sharded = mode != Sharding::none && shards > 1, full = mode == Sharding::full && shards > 1;
      const int64_t owned = sharded ? whole / shards : whole;
      EXPECT_EQ(w->parameters.owned_size(), owned);
      const int64_t values = sharded && !full ? (whole - copied) * 4 : 0, compute = full ? 0 : copied * 2;
      EXPECT_NEAR(double(w->parameters.parameter_arena().high_water()), double(owned * 4 + values + compute),
                  3 * test::arena_alignment());
      EXPECT_NEAR(double(w->parameters.gradient_arena()->high_water()),
                  double(owned * 4 + (sharded && !full ? whole * 4 : 0)), 3 * test::arena_alignment());
      ASSERT_EQ(w->sync.ring_arena() != nullptr, full);
      if (!full) continue;
      const int64_t largest = *std::max_element(unit_values.begin(), unit_values.end()),
                    gradients = *std::max_element(unit_gradients.begin(), unit_gradients.end());
      EXPECT_NEAR(double(w->sync.ring_arena()->high_water()), double(3 * largest + 2 * gradients),
                  8 * test::arena_alignment());
    }
}

/// Memory and traffic of the experts of one rank after a step, by the number of ranks that hold the same.
void expect_share_of_experts(Worker& w, int64_t all) {
  const Layout& layout = w.mesh.layout();
  const int holders = w.mesh.expert_data().size(), cut = layout.expert * layout.expert_tensor,
            shards = layout.sharding == Sharding::none ? 1 : holders;
  int64_t local = 0, owned = 0;
  for (const Part& part : w.parameters.parts()) {
    owned += part.owned_size();
    if (!part.expert) continue;
    local += part.size;
    EXPECT_EQ(part.shards, shards);
  }
  EXPECT_GE(local, all / cut);
  EXPECT_LE(local, all / cut + 2 * 16 * shards);  // two parts, padded to 64 bytes a rank
  EXPECT_EQ(w.optimizer.first_moments().numel(), owned);
  EXPECT_EQ(w.optimizer.second_moments().numel(), owned);

  const std::vector<Collective> kinds{Collective::all_reduce, Collective::reduce_scatter,
                                      Collective::all_gather};
  std::vector<int64_t> sent(3);
  for (int step = 0; step < 2; step++) {  // the first one gathers the starting values
    w.step(batches_of(step, 1));
    w.sync.finish();
    for (size_t i = 0; i < kinds.size(); i++)
      sent[i] = w.mesh.expert_shard().count(kinds[i]).bytes + w.mesh.expert_replicas().count(kinds[i]).bytes -
                sent[i];
  }
  // Gradients of an expert go to the ranks that hold it, and nowhere else.
  const int64_t once = local * 4 * (holders - 1) / holders;
  if (layout.sharding == Sharding::none) {
    EXPECT_NEAR(double(sent[0]), double(2 * once), 16 * holders);
    EXPECT_EQ(sent[1] + sent[2], 0);
    return;
  }
  EXPECT_EQ(sent[0], 0);
  EXPECT_EQ(sent[1], once);
  if (layout.sharding == Sharding::optimizer) {
    EXPECT_EQ(sent[2], once);
  } else {
    EXPECT_GE(sent[2], once);
    EXPECT_LE(sent[2], 2 * once);
  }
}

TEST(Sharding, experts_take_memory_and_traffic_by_their_own_degrees) {
  ModelConfig c = model();
  c.intermediate_size = 8;
  int64_t all = 0;  // elements of experts
  for (const ParameterRow& row : parameter_table(c)) all += row.placement.expert ? row.numel() : 0;
  const int n = world().size();
  for (Sharding mode : {Sharding::none, Sharding::optimizer, Sharding::full})
    for (int expert = 1; expert <= n; expert *= 2)
      for (int slices = 1; expert * slices <= n; slices *= 2)
        for (int tensor = 1; tensor <= std::min(n, 2); tensor++) {
          const Layout layout{.tensor = tensor, .expert = expert, .expert_tensor = slices, .sharding = mode};
          SCOPED_TRACE(name_of(layout));
          expect_share_of_experts(*worker(layout, c, Precision::f32), all);
        }
}

TEST(Sharding, traffic_is_what_the_formulas_say) {
  const int64_t s = world().size();
  if (s == 1) return;
  for (Sharding mode : {Sharding::none, Sharding::optimizer, Sharding::full}) {
    auto w = worker({.sharding = mode}, model(), Precision::f32);
    w->step(batches_of(0, 1));
    w->sync.finish();
    const auto bytes = [&](Collective kind) {
      return w->mesh.dense_shard().count(kind).bytes + w->mesh.expert_shard().count(kind).bytes +
             w->mesh.dense_replicas().count(kind).bytes + w->mesh.expert_replicas().count(kind).bytes;
    };
    const std::vector<Collective> kinds{Collective::all_reduce, Collective::reduce_scatter,
                                        Collective::all_gather};
    std::vector<int64_t> before;
    for (Collective kind : kinds) before.push_back(bytes(kind));
    constexpr int kSteps = 3, kMicro = 2;
    for (int i = 1; i <= kSteps; i++) w->step(batches_of(i, kMicro));
    w->sync.finish();
    std::vector<int64_t> sent;
    for (size_t i = 0; i < kinds.size(); i++) sent.push_back(bytes(kinds[i]) - before[i]);
    int64_t whole = 0;
    std::vector<int64_t> unit(5, 0);
    for (const Part& part : w->parameters.parts()) {
      whole += part.size * 4;
      unit[size_t(part.unit)] += part.size * 4;
    }
    // What one rank sends of n bytes: n (s - 1) / s to scatter the sums or to gather its part.
    const int64_t once = whole * (s - 1) / s;
    switch (mode) {
      case Sharding::none:
        EXPECT_NEAR(double(sent[0]), double(2 * once * kSteps), 0.02 * double(2 * once * kSteps));
        EXPECT_EQ(sent[1] + sent[2], 0);
        break;
      case Sharding::optimizer:
        EXPECT_EQ(sent[1], once * kSteps);
        EXPECT_EQ(sent[2], once * kSteps);
        EXPECT_EQ(sent[0], 0);
        break;
      case Sharding::full:
        // Five units, a ring of three. The first micro-batch gathers all of them going up and units 1 and 0
        // going down, for 4, 3 and 2 are still there; the second finds 0, 1 and 2.
        EXPECT_EQ(sent[1], once * kSteps * kMicro);
        EXPECT_EQ(sent[2], kSteps * (whole + 2 * (unit[0] + unit[1]) + unit[3] + unit[4]) * (s - 1) / s);
        EXPECT_EQ(sent[0], 0);
        break;
    }
  }
}

}  // namespace
}  // namespace jambalaya

int main(int argc, char** argv) { return jambalaya::test::run_ranks(argc, argv); }
