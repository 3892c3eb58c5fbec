// A run of two ranks writes what all of them did: every rank, both threads, and the order that the program
// promises between computing and communicating. Nothing here depends on how long anything took.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>

#include "tests/support/training_run.h"

#ifdef JAMBALAYA_MPIEXEC  // else there is one rank, and nothing to order
namespace jambalaya {
namespace {

constexpr double kRounding = 0.002;  // microseconds: begin and duration are rounded to 0.001 each

struct Scope {
  std::string name, category;
  double begin = 0, end = 0;
  int64_t number = -1;  ///< the layer, unit or step
};
using Threads = std::map<std::string, std::vector<Scope>>;

int64_t number_of(const Json& event) {
  const Json* args = event.find("args");
  for (const char* key : {"layer", "unit", "step"})
    if (const Json* value = args ? args->find(key) : nullptr) return value->integer;
  return -1;
}

/// By rank and thread, in order of their begin, outer scopes first. Refuses anything but Chrome's format.
std::map<int64_t, Threads> read_trace(const std::string& path) {
  const Json events = parse_json(test::read_file(path), path);
  EXPECT_EQ(events.kind, Json::Kind::array);
  std::map<std::pair<int64_t, int64_t>, std::string> names;
  for (const Json& e : events.array)
    if (e.find("name")->string == "thread_name")
      names[{e.find("pid")->integer, e.find("tid")->integer}] = e.find("args")->find("name")->string;
  std::map<int64_t, Threads> ranks;
  for (const Json& e : events.array) {
    if (e.find("ph")->string != "X") continue;
    const int64_t rank = e.find("pid")->integer;
    const double begin = e.find("ts")->number, duration = e.find("dur")->number;
    EXPECT_GE(duration, 0);
    ranks[rank][names.at({rank, e.find("tid")->integer})].push_back(
        {e.find("name")->string, e.find("cat")->string, begin, begin + duration, number_of(e)});
  }
  for (auto& [rank, threads] : ranks)
    for (auto& [name, scopes] : threads)
      std::stable_sort(scopes.begin(), scopes.end(), [](const Scope& a, const Scope& b) {
        return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
      });
  return ranks;
}

void expect_nested(const std::vector<Scope>& scopes) {
  std::vector<const Scope*> open;
  for (const Scope& s : scopes) {
    while (!open.empty() && open.back()->end <= s.begin + kRounding) open.pop_back();
    if (!open.empty()) {
      EXPECT_LE(s.end, open.back()->end + kRounding) << s.name << " ends after " << open.back()->name;
    }
    open.push_back(&s);
  }
}

std::vector<Scope> called(const std::vector<Scope>& all, const std::string& name) {
  std::vector<Scope> some;
  for (const Scope& s : all)
    if (s.name == name) some.push_back(s);
  return some;
}
std::vector<Scope> of_category(const std::vector<Scope>& all, const std::string& category) {
  std::vector<Scope> some;
  for (const Scope& s : all)
    if (s.category == category) some.push_back(s);
  return some;
}

/// Gradients of a layer are sent when its backward is over; they are reduced afterwards, and before the step
/// is through with waiting for them.
void expect_reductions_in_order(const Threads& threads, size_t steps) {
  const std::vector<Scope>& main = threads.at("main");
  const std::vector<Scope> backward = called(main, "backward"), waits = called(main, "wait for gradients");
  ASSERT_EQ(backward.size(), steps);
  ASSERT_EQ(waits.size(), steps);
  for (size_t step = 0; step < steps; step++) {
    const auto within = [&](const Scope& s) {
      return s.begin >= backward[step].begin && s.end <= waits[step].end + kRounding;
    };
    std::map<int64_t, double> sent;  // by unit, in the step
    for (const Scope& send : called(main, "send gradients"))
      if (within(send)) sent.emplace(send.number, send.begin);
    size_t layers = 0;
    for (const Scope& layer : called(main, "layer backward")) {
      if (!within(layer)) continue;
      layers++;
      ASSERT_TRUE(sent.count(layer.number + 1)) << "layer " << layer.number;
      EXPECT_GE(sent.at(layer.number + 1) + kRounding, layer.end) << "layer " << layer.number;
    }
    EXPECT_EQ(layers, 3u);
    size_t reductions = 0;
    for (const Scope& job : of_category(threads.at("communication"), "reduce")) {
      if (!within(job) || !sent.count(job.number))
        continue;  // the head's are sent before the layers' backward
      reductions++;
      EXPECT_GE(job.begin, sent.at(job.number)) << job.name;
    }
    EXPECT_GT(reductions, 0u);
  }
  // The head's are final first: nothing is reduced before the step's loss is being computed.
  const std::vector<Scope> heads = called(main, "head and loss");
  for (const Scope& job : of_category(threads.at("communication"), "reduce")) {
    const bool inside = std::any_of(waits.begin(), waits.end(), [&](const Scope& wait) {
      const auto head =
          std::find_if(heads.rbegin(), heads.rend(), [&](const Scope& h) { return h.begin < wait.begin; });
      return head != heads.rend() && job.begin >= head->begin && job.end <= wait.end + kRounding;
    });
    EXPECT_TRUE(inside) << job.name << " lies outside every backward";
  }
}

/// No layer begins before the values of its unit are gathered: of those that were gathered within its step.
void expect_values_before_use(const Threads& threads, bool sharded) {
  const std::vector<Scope>& main = threads.at("main");
  const std::vector<Scope> gathers = of_category(threads.at("communication"), "gather");
  EXPECT_EQ(gathers.empty(), !sharded);
  size_t waited_for = 0;
  for (const Scope& wait : called(main, "wait for values")) {
    // The newest gather of the unit that was over when the wait ended: the one that was waited for.
    const auto over = std::find_if(gathers.rbegin(), gathers.rend(), [&](const Scope& g) {
      return g.number == wait.number && g.begin < wait.end;
    });
    if (over == gathers.rend()) continue;  // gathered before the recording began
    waited_for++;
    EXPECT_LE(over->end, wait.end + kRounding) << over->name;
  }
  EXPECT_EQ(waited_for > 0, sharded);
}

class Trace : public testing::Test {
 protected:
  void SetUp() override { data_ = test::make_store(folder_, "data", test::random_texts(150, 90, 1)); }
  /// Trains 6 steps on two ranks; what was printed.
  std::string train(const std::string& options) {
    Config c = test::small_run(folder_.path("run"), data_);
    c.train.steps = 6;
    c.log.evaluate_every = 4;
    const std::string file = folder_.path("config.yaml"), log = folder_.path("log");
    std::ofstream(file) << to_yaml(c);
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 1);
    EXPECT_EQ(
        system(cat(JAMBALAYA_MPIEXEC " -n 2 --oversubscribe --bind-to none " JAMBALAYA_PROGRAM " train '",
                   file, "' ", options, " > '", log, "' 2>&1")
                   .c_str()),
        0)
        << test::read_file(log);
    return test::read_file(log);
  }
  test::TemporaryFolder folder_;
  std::string data_;
};

class TraceOfSharding : public Trace, public testing::WithParamInterface<const char*> {};

TEST_P(TraceOfSharding, holds_every_rank_and_thread_in_the_order_of_the_program) {
  const std::string sharding = GetParam(), path = folder_.path("trace.json");
  train(cat("--trace '", path, "' --set parallel.sharding=", sharding));
  const std::map<int64_t, Threads> ranks = read_trace(path);
  ASSERT_EQ(ranks.size(), 2u);
  for (const auto& [rank, threads] : ranks) {
    SCOPED_TRACE(cat("rank ", rank, ", sharding ", sharding));
    ASSERT_TRUE(threads.count("main") && threads.count("communication"));
    for (const auto& [name, scopes] : threads) expect_nested(scopes);
    const std::vector<Scope>& main = threads.at("main");
    std::vector<std::string> steps;
    for (const Scope& s : of_category(main, "step")) steps.push_back(s.name);
    EXPECT_EQ(steps, (std::vector<std::string>{"step 3", "step 4", "step 5"}));
    const std::map<std::string, size_t> counts = {
        {"data", 3},           {"backward", 3},           {"head and loss", 3},  {"embedding backward", 3},
        {"layer backward", 9}, {"attention backward", 3}, {"mamba backward", 6}, {"experts backward", 6},
        {"mlp backward", 3},   {"gradient norm", 3},      {"optimizer", 3},      {"checkpoint", 1},
        {"evaluation", 1}};
    const std::vector<Scope> evaluation = called(main, "evaluation");
    ASSERT_EQ(evaluation.size(), 1u);
    for (const auto& [name, count] : counts) {
      size_t found = 0;  // evaluation goes through the model, too
      for (const Scope& s : called(main, name))
        found += name == "evaluation" || s.begin < evaluation[0].begin || s.begin > evaluation[0].end;
      EXPECT_EQ(found, count) << name;
    }
    expect_reductions_in_order(threads, 3);
    expect_values_before_use(threads, sharding != "none");
  }
}

TEST_F(Trace, a_job_that_ends_before_its_first_traced_step_says_so) {
  const std::string path = folder_.path("trace.json");
  EXPECT_NE(train(cat("--set log.trace='", path, "' --set log.trace_from=7")).find("no trace was written"),
            std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(Trace, a_resumed_job_counts_its_own_steps_and_ends_the_trace_with_itself) {
  const std::string path = folder_.path("trace.json");
  train("--set train.steps=4");
  train(cat("--resume auto --trace '", path, "' --set log.trace_from=2"));
  for (const auto& [rank, threads] : read_trace(path))
    EXPECT_EQ(called(threads.at("main"), "step 6").size(), of_category(threads.at("main"), "step").size());
}

TEST_F(Trace, ring_steps_and_expert_exchanges_lie_within_their_layers) {
  const std::string path = folder_.path("trace.json");
  train(cat("--trace '", path, "' --set parallel.context=2 --set parallel.expert=2 --set log.trace_steps=1"));
  for (const auto& [rank, threads] : read_trace(path)) {
    const std::vector<Scope>& main = threads.at("main");
    expect_nested(main);
    const auto within = [&](const char* inner, const char* outer) {
      size_t count = 0;
      for (const Scope& in : called(main, inner))
        for (const Scope& out : called(main, outer))
          count += in.begin >= out.begin && in.end <= out.end + kRounding;
      return count;
    };
    EXPECT_EQ(within("ring step forward", "attention forward"), 2u) << "one for each block of keys";
    EXPECT_EQ(within("ring step backward", "attention backward"), 2u);
    // Two layers of experts: rows go out and results come back.
    EXPECT_EQ(within("expert exchange", "experts forward"), 4u);
    EXPECT_EQ(within("expert exchange", "experts backward"), 4u);
  }
}

TEST_F(Trace, a_profile_of_two_ranks_shows_mean_and_slowest_and_every_op_within_its_layer) {
  const std::string log = train("--profile --set parallel.expert=2 --set parallel.sharding=optimizer");
  EXPECT_NE(log.find("profile of 3 steps"), std::string::npos) << log;
  EXPECT_NE(log.find("mean of 2 ranks"), std::string::npos) << log;
  EXPECT_NE(log.find("\nexchange between ranks "), std::string::npos) << log;
  EXPECT_NE(log.find("peaks a rank, all at once"), std::string::npos) << log;
  for (const auto& [rank, threads] : read_trace(folder_.path("run/profile.json"))) {
    const std::vector<Scope>& main = threads.at("main");
    expect_nested(main);
    size_t within = 0;
    const std::vector<Scope> ops = called(main, "scan forward");
    for (const Scope& op : ops) {
      EXPECT_EQ(op.category, "convolution and scan");
      for (const Scope& layer : called(main, "mamba forward"))
        within += op.begin + kRounding >= layer.begin && op.end <= layer.end + kRounding;
    }
    EXPECT_GT(ops.size(), 0u);
    EXPECT_EQ(within, ops.size());
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, TraceOfSharding, testing::Values("none", "optimizer", "full"));

}  // namespace
}  // namespace jambalaya
#endif
