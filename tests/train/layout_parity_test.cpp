// Every layout, the same numbers. Under mpirun -n N this walks over the factorisations of N that the model
// admits, each in all forms of sharding, and holds them against one rank in the same process.
// JAMBALAYA_PARITY=full takes every form of sharding with every factorisation; by default they take turns.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>

#include "model/gather_tensor.h"
#include "tests/support/model.h"
#include "tests/support/parity.h"
#include "tests/support/ranks.h"
#include "train/run/engine.h"

namespace jambalaya::test {
namespace {

constexpr int kMicroBatches = 2;
const char* const kSilent = "layers.0.feed_forward.router.weight";  ///< its expert 5 is never chosen
constexpr double kFp32 = 2e-5;  // relative: sums of some hundred terms in another order
constexpr double kBf16 = 4e-2;  // a partial sum is rounded once more for each rank

OptimizerSection settings() {
  return {.lr = 3e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1.0};
}

/// Everything that a layout computes, by name, whole.
struct Outcome {
  std::map<std::string, std::vector<float>> initial, gradients, trained;
  StepLosses losses;
  double norm = 0;
  std::vector<double> course;  ///< loss and norm of each step of training
};

class Job {
 public:
  Job(std::unique_ptr<Communicator> ranks, const Layout& layout, Precision precision,
      Recompute recompute = Recompute::off, const ModelConfig& model = parity_model())
      : mesh(std::move(ranks), layout, device_link()),
        context(1, "", int64_t(1) << 34),
        engine(mesh, context, model, precision, settings(), 1 << 12) {
    context.on.run_ahead();
    engine.jamba.recompute = recompute;
    engine.parameters.initialize(5);
    if (engine.parameters.has(kSilent)) silence_an_expert();
    engine.refresh();
  }

  /// This rank's rows of a step.
  std::vector<HostBatch> batches(int step) const {
    std::vector<HostBatch> all;
    const int data = mesh_layout().data, rank = data_rank();
    for (int m = 0; m < kMicroBatches; m++)
      all.push_back(parity_batch(engine.parameters.config(), step, m, kParityRows * rank / data,
                                 kParityRows * (rank + 1) / data, few_tokens ? few_rows() : parity_rows(m)));
    return all;
  }
  StepLosses gradients(int step) {
    std::vector<HostBatch> mine = batches(step);
    int64_t counted = 0;
    for (const HostBatch& b : mine) counted += b.counted;
    mesh.data().all_reduce(make_tensor(&counted, {1}));
    return engine.gradients(mine, counted, few_tokens ? 8 : 192);
  }

  std::map<std::string, std::vector<float>> whole(Tensor flat) {
    std::map<std::string, std::vector<float>> tensors;
    for (const ParameterRow& row : engine.parameters.table())
      tensors[row.name] =
          gather_tensor(engine.parameters, flat, engine.parameters.index(row.name), mesh.world());
    return tensors;
  }

  Outcome run(int steps) {
    Outcome r;
    r.initial = whole(engine.parameters.owned_master());
    r.losses = gradients(0);
    r.norm = r.losses.gradient_norm;
    r.gradients = whole(engine.parameters.owned_gradient());
    for (int s = 0; s < steps; s++) {
      const StepLosses losses = gradients(s);
      engine.update(settings().lr, losses.gradient_norm);
      r.course.insert(r.course.end(), {losses.objective, losses.gradient_norm});
    }
    if (steps) r.trained = whole(engine.parameters.owned_master());
    return r;
  }

  Mesh mesh;
  TestContext context;
  Engine engine;
  bool few_tokens = false;  ///< few_rows() instead of parity_rows()

 private:
  const Layout& mesh_layout() const { return mesh.layout(); }
  int data_rank() const { return mesh.data_rank(); }

  /// Experts 3, 4 and 5 of the first expert layer get one router row. Of equals the first two win, so nobody
  /// chooses expert 5.
  void silence_an_expert() {
    Parameters& p = engine.parameters;
    const int row = p.index(kSilent);
    const int64_t width = p.config().hidden_size;
    std::vector<float> third(size_t(width), 0);
    initial_values(p.config(), p.table()[size_t(row)], 5, 3 * width, 4 * width, third.data());
    for (const OwnedSlice& slice : p.owned()) {
      if (slice.row != row) continue;
      const Tensor there = p.owned_master().slice_rows(slice.at, slice.at + slice.end - slice.begin);
      std::vector<float> owned = copied(there);
      for (const Rectangle& piece : pieces(p.table()[size_t(row)], p.ranks(), slice.begin, slice.end))
        for (const Stretch& r : stretches(p.table()[size_t(row)], piece))
          for (int64_t i = 0; i < r.count; i++)
            if ((r.global + i) / width == 4 || (r.global + i) / width == 5)
              owned[size_t(r.local + i - slice.begin)] = third[size_t((r.global + i) % width)];
      assign(there, owned);
    }
  }
};

const Outcome& one_rank(Precision precision) {
  static std::map<Precision, Outcome> known;
  if (!known.contains(precision)) {
    Job job(make_single_communicator(), Layout{}, precision);
    known[precision] = job.run(10);
  }
  return known[precision];
}

struct Form {
  Sharding sharding;
  int shard;
  bool sequence;
};
std::vector<Form> forms() {
  return {{Sharding::none, 0, true}, {Sharding::optimizer, 0, true}, {Sharding::full, 0, true},
          {Sharding::full, 2, true}, {Sharding::none, 0, false},     {Sharding::optimizer, 2, false},
          {Sharding::full, 0, false}};
}

LayoutLimits limits() {
  const ModelConfig m = parity_model();
  return {m.num_attention_heads, m.num_key_value_heads, m.inner_size(), m.num_experts};
}

/// Layouts of this job's ranks: all factorisations, with all forms or each with the next one. `stride` takes
/// every so-manieth only, beginning at `first`.
std::vector<Layout> layouts(size_t stride = 1, size_t first = 0) {
  const char* asked = std::getenv("JAMBALAYA_PARITY");
  const bool all = asked && std::string(asked) == "full";
  std::vector<Layout> chosen;
  size_t turn = 0;
  for (Layout layout : valid_layouts(world().size(), limits())) {
    if (kParityRows % layout.data) continue;
    std::vector<Layout> fitting;
    for (const Form& form : forms()) {
      layout.sharding = form.sharding, layout.shard = form.shard, layout.sequence = form.sequence;
      if (form.shard == 0 || token_ranks(layout) % form.shard == 0) fitting.push_back(layout);
    }
    if (all)
      chosen.insert(chosen.end(), fitting.begin(), fitting.end());
    else if (turn % stride == first % stride)
      chosen.push_back(fitting[(turn + first) % fitting.size()]);
    turn++;
  }
  return chosen;
}

std::string name(const Layout& l) {
  const char* sharding[] = {"none", "optimizer", "full"};
  return cat(describe(l), " sharding=", sharding[int(l.sharding)], " shard=", l.shard,
             " sequence=", l.sequence);
}

void expect_near(double ours, double theirs, double tolerance, const char* what) {
  EXPECT_LE(std::abs(ours - theirs), tolerance * (1 + std::abs(theirs)))
      << what << ": " << ours << " against " << theirs;
}

void expect_same(const std::map<std::string, std::vector<float>>& ours,
                 const std::map<std::string, std::vector<float>>& theirs, double tolerance) {
  ASSERT_EQ(ours.size(), theirs.size());
  for (const auto& [tensor, values] : theirs) {
    const auto& mine = ours.at(tensor);
    ASSERT_EQ(mine.size(), values.size()) << tensor;
    EXPECT_LE(relative_difference(mine, values), tolerance) << tensor;
  }
}

std::unique_ptr<Communicator> all_ranks() { return world().split(0, "world"); }

TEST(layouts, same_init_any_layout) {
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(name(layout));
    Job job(all_ranks(), layout, Precision::f32);
    const auto initial = job.whole(job.engine.parameters.owned_master());
    for (const auto& [tensor, values] : one_rank(Precision::f32).initial)
      EXPECT_EQ(initial.at(tensor), values) << tensor << ": the same bits";
  }
}

TEST(layouts, same_loss_gradients_and_norm_any_layout) {
  const Outcome& expected = one_rank(Precision::f32);
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(name(layout));
    const Outcome run = Job(all_ranks(), layout, Precision::f32).run(0);
    EXPECT_EQ(run.losses.counted, expected.losses.counted);
    expect_near(run.losses.objective, expected.losses.objective, kFp32, "objective");
    expect_near(run.losses.loss, expected.losses.loss, kFp32, "loss");
    expect_near(run.losses.aux, expected.losses.aux, kFp32, "balance loss");
    expect_near(run.losses.router_z, expected.losses.router_z, kFp32, "router z-loss");
    expect_near(run.losses.head_z, expected.losses.head_z, kFp32, "head z-loss");
    expect_near(run.losses.activation, expected.losses.activation, kFp32, "activation loss");
    expect_near(run.norm, expected.norm, kFp32, "norm");
    expect_same(run.gradients, expected.gradients, 10 * kFp32);
  }
}

TEST(layouts, same_gradients_with_shards_of_few_tokens) {
  Job one(make_single_communicator(), Layout{}, Precision::f32);
  one.few_tokens = true;
  const Outcome expected = one.run(0);
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(name(layout));
    Job job(all_ranks(), layout, Precision::f32);
    job.few_tokens = true;
    const Outcome run = job.run(0);
    expect_near(run.losses.objective, expected.losses.objective, kFp32, "objective");
    expect_near(run.norm, expected.norm, kFp32, "norm");
    expect_same(run.gradients, expected.gradients, 10 * kFp32);
  }
}

TEST(layouts, nobody_chooses_the_silent_expert) {
  const auto& gradient = one_rank(Precision::f32).gradients.at("layers.0.feed_forward.experts.down_proj");
  const size_t size = gradient.size() / 8;
  double of_fifth = 0, of_fourth = 0;
  for (size_t i = 0; i < size; i++)
    of_fifth += std::abs(double(gradient[5 * size + i])),
        of_fourth += std::abs(double(gradient[4 * size + i]));
  EXPECT_EQ(of_fifth, 0);
  EXPECT_GT(of_fourth, 0);
}

TEST(layouts, same_ten_steps_any_layout) {
  const Outcome& expected = one_rank(Precision::f32);
  for (const Layout& layout : layouts(3)) {
    SCOPED_TRACE(name(layout));
    const Outcome run = Job(all_ranks(), layout, Precision::f32).run(10);
    ASSERT_EQ(run.course.size(), expected.course.size());
    for (size_t i = 0; i < run.course.size(); i++)
      expect_near(run.course[i], expected.course[i], 2e-4, i % 2 ? "norm" : "objective");
    expect_same(run.trained, expected.trained, 2e-3);
  }
}

TEST(layouts, same_gradients_with_recomputation) {
  const Outcome& expected = one_rank(Precision::f32);
  for (Recompute recompute : {Recompute::mamba, Recompute::layer})
    for (const Layout& layout : layouts(5, size_t(recompute))) {
      SCOPED_TRACE(cat(name(layout), " recompute ", int(recompute)));
      const Outcome run = Job(all_ranks(), layout, Precision::f32, recompute).run(0);
      expect_near(run.norm, expected.norm, kFp32, "norm");
      expect_same(run.gradients, expected.gradients, 10 * kFp32);
    }
}

using Tensors = std::map<std::string, std::vector<float>>;

/// Relative difference of all tensors together.
double distance(const Tensors& ours, const Tensors& theirs) {
  std::vector<float> a, b;
  for (const auto& [tensor, values] : theirs) {
    a.insert(a.end(), ours.at(tensor).begin(), ours.at(tensor).end());
    b.insert(b.end(), values.begin(), values.end());
  }
  return relative_difference(a, b);
}

/// Rounding makes single tokens choose other experts, and one of 180 tokens changes the gradients by some 7
/// %. So bf16 gradients are not compared with each other: a layout must be about as near to the fp32
/// gradients as one rank in bf16 is, give or take two such tokens. (That the sums are the right ones is what
/// the fp32 tests show.)
void expect_as_near(const Tensors& ours, const Tensors& one_rank, const Tensors& fp32) {
  EXPECT_LE(distance(ours, fp32), std::max(1.5 * distance(one_rank, fp32), 0.15));
}

TEST(layouts, same_in_bf16_within_its_rounding) {
  const Outcome& expected = one_rank(Precision::bf16);
  for (const Layout& layout : layouts(3)) {
    SCOPED_TRACE(name(layout));
    const Outcome run = Job(all_ranks(), layout, Precision::bf16).run(3);
    expect_near(run.losses.loss, expected.losses.loss, 5e-3, "loss");
    expect_near(run.norm, expected.norm, kBf16, "norm");
    expect_as_near(run.gradients, expected.gradients, one_rank(Precision::f32).gradients);
    for (size_t i = 0; i < run.course.size(); i += 2)  // stale bf16 copies would show in the second step
      expect_near(run.course[i], expected.course[i], 2e-2, "objective");
  }
}

TEST(layouts, same_gradients_of_the_opposite_model) {
  Tensors fp32;
  for (Precision precision : {Precision::f32, Precision::bf16}) {
    const Outcome expected =
        Job(make_single_communicator(), Layout{}, precision, Recompute::off, other_parity_model()).run(2);
    const bool wide = precision == Precision::f32;
    if (wide) fp32 = expected.gradients;
    for (const Layout& layout : layouts(wide ? 2 : 5, 1)) {
      SCOPED_TRACE(cat(name(layout), wide ? " fp32" : " bf16"));
      const Outcome run = Job(all_ranks(), layout, precision, Recompute::off, other_parity_model()).run(2);
      expect_near(run.losses.objective, expected.losses.objective, wide ? kFp32 : 1e-2, "objective");
      expect_near(run.norm, expected.norm, wide ? kFp32 : 2 * kBf16, "norm");
      wide ? expect_same(run.gradients, expected.gradients, 10 * kFp32)
           : expect_as_near(run.gradients, expected.gradients, fp32);
      expect_near(run.course.at(2), expected.course.at(2), wide ? 2e-4 : 2e-2, "objective after an update");
    }
  }
}

/// What gather_tensor does not see: every holder of an element, copies and replicas alike.
TEST(layouts, copies_and_replicas_stay_equal_to_the_bit) {
  for (const Layout& layout : layouts(2)) {
    SCOPED_TRACE(name(layout));
    Job job(all_ranks(), layout, Precision::f32);
    for (int step = 0; step < 2; step++) {
      const StepLosses losses = job.gradients(step);
      job.engine.update(settings().lr, losses.gradient_norm);
    }
    const Parameters& p = job.engine.parameters;
    for (int row = 0; row < int(p.table().size()); row++) {
      const ParameterRow& r = p.table()[size_t(row)];
      std::vector<float> lowest(size_t(r.numel()), INFINITY), highest(size_t(r.numel()), -INFINITY);
      for (const OwnedSlice& slice : p.owned()) {
        if (slice.row != row) continue;
        const std::vector<float> owned =
            copied(p.owned_master().slice_rows(slice.at, slice.at + slice.end - slice.begin));
        for (const Rectangle& piece : pieces(r, p.ranks(), slice.begin, slice.end))
          for (const Stretch& s : stretches(r, piece))
            for (int64_t i = 0; i < s.count; i++)
              lowest[size_t(s.global + i)] = highest[size_t(s.global + i)] =
                  owned[size_t(s.local + i - slice.begin)];
      }
      job.mesh.world().all_reduce(make_tensor(lowest.data(), {r.numel()}), Reduce::min);
      job.mesh.world().all_reduce(make_tensor(highest.data(), {r.numel()}), Reduce::max);
      EXPECT_EQ(lowest, highest) << r.name;
    }
  }
}

}  // namespace
}  // namespace jambalaya::test

int main(int argc, char** argv) { return jambalaya::test::run_ranks(argc, argv); }
