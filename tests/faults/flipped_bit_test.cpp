// A bit that flips in memory between two steps is noticed, named, and never saved. The program under test is
// this one, started again on one or two ranks: its backend flips the bit in the midst of a training run.
#include <gtest/gtest.h>

#include <cstdint>
#include <type_traits>

#include "parallel/communicator.h"
#include "tests/support/forwarding_ops.h"
#include "tests/support/process.h"

namespace jambalaya {
namespace {

using test::checkpoint_path;
using test::metrics;

constexpr const char* kTensor = "layers.1.self_attn.o_proj.weight";

/// Which bit flips: of `what` ("weights", "first moments", "second moments", "bf16 copy") of element 5 of
/// kTensor.
struct Flip {
  std::string what, when;  ///< when: "backward" (of step), "evaluation" (after its update)
  int64_t step = 0;
  int rank = 0;
};

/// Where kTensor begins in a rank's flat memory.
int64_t place_of(const Config& c) {
  const Parameters parameters(c.model, c.train.precision, false);
  const int row = parameters.index(kTensor);
  for (const OwnedSlice& slice : parameters.owned())
    if (slice.row == row) return slice.at;
  throw std::logic_error(kTensor);
}

/// Learns from the optimizer where the tensors lie.
class FlippingOps final : public test::ForwardingOps<FlippingOps> {
 public:
  FlippingOps(Ops& ops, Flip flip, int64_t at) : ops_(ops), flip_(std::move(flip)), at_(at) {}

  const char* name() const override { return ops_.name(); }
  template <class Op>
  void forward(const char*, void (Ops::*run)(Context&, const Op&), Context& c, const Op& op,
               std::initializer_list<Tensor>) {
    if constexpr (std::is_same_v<Op, AdamW>) learn(op);
    if constexpr (std::is_same_v<Op, SumSquares>)
      if (flip_.when == "backward" && updates_ == flip_.step - 1) flip();
    (ops_.*run)(c, op);
    if constexpr (std::is_same_v<Op, HeadLoss>)
      if (flip_.when == "evaluation" && updates_ == flip_.step) flip();
  }

 private:
  void learn(const AdamW& a) {
    if (updates_ != a.step) updates_ = a.step, first_ = a.param.ptr<float>();
    const int64_t at = at_ - (a.param.ptr<float>() - first_);
    if (at < 0 || at >= a.param.numel()) return;
    memory_ = {{"weights", a.param.ptr<float>() + at},
               {"first moments", a.m.ptr<float>() + at},
               {"second moments", a.v.ptr<float>() + at}};
    if (a.compute) memory_["bf16 copy"] = a.compute.ptr<bf16>() + at;
  }
  void flip() {
    if (done_) return;
    done_ = true;
    auto* const element = static_cast<uint8_t*>(memory_.at(flip_.what));
    element[flip_.what == "bf16 copy" ? 10 : 20] ^= 1;  // the lowest bit of element 5
  }
  Ops& ops_;
  const Flip flip_;
  const int64_t at_;
  int64_t updates_ = 0;
  const float* first_ = nullptr;
  std::map<std::string, void*> memory_;
  bool done_ = false;
};

/// The run in a process of its own; ends as the program does.
int train_with_flip(const std::string& config_file, const Flip& flip) {
  int code = 0;
  try {
    const Config c = load_config(config_file, {});
    Runtime runtime(c.parallel, c.model, c.run);
    FlippingOps ops(*runtime.context().ops, flip, place_of(c));
    if (flip.rank == runtime.mesh().rank()) runtime.context().ops = &ops;
    code = int(Trainer(runtime, c, "auto").run());
  } catch (const Error& e) {
    log_failure(e.what(), e.exit());
    code = int(e.exit());
  }
  finish_world(code);
  return code;
}

class FlippedBit : public testing::Test {
 protected:
  void SetUp() override { data_ = test::make_store(folder_, "data", test::random_texts(150, 90, 1)); }
  Config config(const std::string& name, int64_t verify_every) const {
    Config c = test::small_run(folder_.path(name), data_);
    c.run.device = "cpu";
    c.train.steps = 8;
    c.train.verify_every = verify_every;
    c.log.evaluate_every = 4;
    return c;
  }
  /// Exit code and output.
  static std::pair<int, std::string> run(const Config& c, int ranks, const Flip& flip) {
    const std::string file = c.run.folder + ".yaml";
    std::ofstream(file) << to_yaml(c);
    test::Process process(c.run.folder + ".log",
                          cat(test::launcher(ranks), "/proc/", getpid(), "/exe flip '", file, "' '",
                              flip.what, "' ", flip.when, " ", flip.step, " ", flip.rank));
    const int code = process.wait();
    return {code, process.output()};
  }
  /// The run ended and said so; what it saved before is whole, and a run from there ends as one without a
  /// flip.
  void expect_noticed(const Config& c, int ranks, const Flip& flip, const std::string& part, int64_t saved) {
    SCOPED_TRACE(cat(flip.what, " ", flip.when, " ", ranks, " ranks"));
    const auto [code, said] = run(c, ranks, flip);
    EXPECT_EQ(code, int(Exit::failed)) << said;
    EXPECT_NE(said.find(part), std::string::npos) << "'" << part << "' is not in: " << said;
    const auto steps = checkpoints_of(c.run.folder + "/checkpoints");
    EXPECT_EQ(steps.empty() ? 0 : steps.rbegin()->first, saved);
    Config whole = c;
    whole.run.folder += "-whole";
    for (const Config& again : {c, whole}) {
      test::Process process(again, ranks);
      EXPECT_EQ(process.wait(), 0) << process.output();
    }
    EXPECT_EQ(test::difference(test::tensors_of(c.run.folder, 8), test::tensors_of(whole.run.folder, 8)), "");
    EXPECT_EQ(metrics(c.run.folder), metrics(whole.run.folder));
  }
  test::TemporaryFolder folder_;
  std::string data_;
};

TEST_F(FlippedBit, in_weights_or_moments_is_named_before_the_next_update) {
  for (const char* what : {"weights", "first moments", "second moments", "bf16 copy"}) {
    Config c = config(what, 1);
    if (std::string(what) == "bf16 copy") c.train.precision = Precision::bf16;
    expect_noticed(c, 1, {what, "backward", 6, 0},
                   cat("memory has changed by itself since the update of step 5: ", what, " of ", kTensor,
                       ", among elements 0 to 255, on rank 0 on host "),
                   4);
  }
}

TEST_F(FlippedBit, after_a_step_without_hashes_goes_unseen_on_one_rank) {
  // Step 6 is hashed, step 5 is not: what flips in between belongs to nobody.
  const auto [code, said] = run(config("unseen", 3), 1, {"weights", "backward", 6, 0});
  EXPECT_EQ(code, 0) << said;
  const auto [off, silent] = run(config("off", 0), 1, {"weights", "backward", 6, 0});
  EXPECT_EQ(off, 0) << silent;
}

TEST_F(FlippedBit, never_reaches_a_checkpoint) {
  expect_noticed(config("evaluation", 4), 1, {"weights", "evaluation", 4, 0},
                 cat("memory has changed by itself since the update of step 4: weights of ", kTensor), 0);
}

#ifdef JAMBALAYA_MPIEXEC
TEST_F(FlippedBit, on_the_second_of_two_ranks_is_named_with_its_rank) {
  expect_noticed(config("second", 1), 2, {"weights", "backward", 6, 1},
                 cat("since the update of step 5: weights of ", kTensor,
                     ", among elements 0 to 255, on rank 1 on host "),
                 4);
}

TEST_F(FlippedBit, between_two_checks_is_seen_by_the_other_rank) {
  // Flipped before the update of step 5, of which nothing was remembered; ranks are compared after step 6.
  expect_noticed(config("replica", 3), 2, {"weights", "backward", 5, 1},
                 cat("copies have drifted apart: ", kTensor), 4);
}
#endif

}  // namespace
}  // namespace jambalaya

int main(int argc, char** argv) {
  if (argc == 7 && std::string(argv[1]) == "flip")
    return jambalaya::train_with_flip(argv[2], {argv[3], argv[4], std::atoll(argv[5]), std::atoi(argv[6])});
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
