// Time by kind of work: what a made-up trace comes to, that nothing is lost or counted twice, that every kind
// of a hybrid with experts is there, and that the ops' operations are those of the model.
#include <gtest/gtest.h>

#include <numeric>

#include "model/flops.h"
#include "model/op_flops.h"
#include "tests/support/model.h"
#include "tests/support/training_run.h"
#include "train/run/profile.h"
#include "train/run/profiled_ops.h"

namespace jambalaya {
namespace {

double sum(const std::array<double, kWorks>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}
double ms(const Profile& p, Work work) { return 1e3 * p.time[size_t(work)]; }

trace::Event event(const char* name, const char* category, int64_t begin_ms, int64_t end_ms) {
  return {.name = name, .category = category, .begin_ns = begin_ms * 1'000'000, .end_ns = end_ms * 1'000'000};
}
trace::Event op(Work work, int64_t begin_ms, int64_t end_ms, int64_t flops = 0) {
  trace::Event e = event("op", name_of(work), begin_ms, end_ms);
  if (flops) e.counts = "flop", e.number = flops;
  return e;
}

/// One step of 100 ms, in the order in which scopes end.
std::vector<trace::Event> made_up_step() {
  return {event("before", "compute", 0, 10),  // in no step
          event("data", "data", 10, 13),
          op(Work::dense, 20, 40, 4'000'000'000),
          op(Work::scan, 40, 45, 1'000'000'000),
          event("mamba forward", "compute", 18, 46),
          op(Work::routing, 46, 48),
          event("all-to-all", "communication", 49, 52),
          event("expert exchange", "exchange", 48, 53),
          op(Work::experts, 53, 60, 2'000'000'000),
          event("experts forward", "compute", 46, 60),
          event("wait for gradients", "wait", 70, 74),
          op(Work::pointwise, 74, 76),
          event("all-reduce", "communication", 76, 77),
          event("gradient norm", "compute", 74, 78),
          op(Work::optimizer, 80, 90),
          event("optimizer", "compute", 79, 90),
          op(Work::dense, 92, 94, 7'000'000'000),
          event("all-reduce", "communication", 94, 95),
          event("evaluation", "evaluation", 91, 96),
          event("step 7", "step", 10, 110)};
}

TEST(Profile, of_a_made_up_trace) {
  const Profile p = profile_of(made_up_step(), 2);
  EXPECT_EQ(p.steps, 1);
  EXPECT_DOUBLE_EQ(p.seconds, 0.1);
  EXPECT_NEAR(ms(p, Work::data), 3, 1e-9);
  EXPECT_NEAR(ms(p, Work::dense), 20, 1e-9) << "without the evaluation's";
  EXPECT_NEAR(ms(p, Work::scan), 5, 1e-9);
  EXPECT_NEAR(ms(p, Work::routing), 2, 1e-9);
  EXPECT_NEAR(ms(p, Work::experts), 7, 1e-9);
  EXPECT_NEAR(ms(p, Work::pointwise), 0, 1e-9) << "the norm's squares are the optimizer's";
  EXPECT_NEAR(ms(p, Work::exchange), 5 + 4 + 1, 1e-9);
  EXPECT_NEAR(ms(p, Work::optimizer), 3 + 11, 1e-9);
  EXPECT_NEAR(ms(p, Work::evaluation), 5, 1e-9);
  EXPECT_NEAR(ms(p, Work::rest), 100 - 66, 1e-9);
  EXPECT_NEAR(sum(p.time), p.seconds, 1e-12);
  EXPECT_EQ(p.flops[size_t(Work::dense)], 4e9);
  EXPECT_EQ(p.flops[size_t(Work::evaluation)], 7e9);
  EXPECT_NEAR(1e3 * p.busy(), 90, 1e-9);
}

TEST(Profile, of_two_scopes_that_cover_the_same_time_the_later_one_is_outside) {
  const Profile p =
      profile_of({op(Work::scan, 0, 4), event("data", "data", 4, 4), event("step 1", "step", 0, 4)}, 1);
  EXPECT_NEAR(ms(p, Work::scan), 4, 1e-9);
  EXPECT_NEAR(ms(p, Work::rest), 0, 1e-9);
}

TEST(Profile, waits_for_a_stream_are_exchange_only_where_there_is_another_rank) {
  const std::vector<trace::Event> events = {event("wait for the stream", "stream", 1, 3),
                                            event("step 1", "step", 0, 4)};
  EXPECT_NEAR(ms(profile_of(events, 1), Work::exchange), 0, 1e-9);
  EXPECT_NEAR(ms(profile_of(events, 2), Work::exchange), 2, 1e-9);
}

/// The row of a table that begins with `name`, blanks squeezed.
std::string row(const std::string& table, const std::string& name) {
  std::istringstream lines(table);
  for (std::string text; std::getline(lines, text);) {
    if (!text.starts_with(name + " ")) continue;
    std::string squeezed;
    for (char c : text)
      if (c != ' ' || !squeezed.ends_with(' ')) squeezed += c;
    return squeezed;
  }
  return "no row " + name;
}

TEST(Profile, table_of_one_rank) {
  Profile p = profile_of(made_up_step(), 1);
  p.peaks = {.gemm = 400e9, .scan = 1000e9};
  const std::string table = profile_table({p});
  EXPECT_EQ(row(table, "dense GEMM"), "dense GEMM 20.00 20.0 % 4.00 200 50.0 %") << table;
  EXPECT_EQ(row(table, "convolution and scan"), "convolution and scan 5.00 5.0 % 1.00 200 20.0 %");
  EXPECT_EQ(row(table, "routing"), "routing 2.00 2.0 %");
  EXPECT_EQ(row(table, "evaluation and checkpoint"), "evaluation and checkpoint 5.00 5.0 % 7.00 1400");
  EXPECT_EQ(row(table, "rest"), "rest 34.00 34.0 %");
  EXPECT_EQ(row(table, "step"), "step 100.00 100.0 % 14.0 140");
  EXPECT_EQ(row(table, "attention"), "no row attention");
  // (4 + 2) / 400 + 1 / 1000 s
  EXPECT_NE(table.find("would take 16.00 ms: 16.0 % of the step"), std::string::npos) << table;
}

TEST(Profile, table_of_ranks_shows_the_mean_and_the_one_that_is_busy_longest) {
  // Both take 100 ms; rank 0 waits for rank 1.
  const Profile waits = profile_of(
      {op(Work::dense, 0, 20, 1'000'000'000), event("w", "wait", 20, 100), event("s", "step", 0, 100)}, 2);
  const Profile works = profile_of({op(Work::dense, 0, 90, 2'000'000'000), event("s", "step", 0, 100)}, 2);
  const std::string table = profile_table({waits, works});
  EXPECT_NE(table.find("rank 1 is busy longest, 100.00 ms against 60.00 ms"), std::string::npos) << table;
  EXPECT_EQ(row(table, "dense GEMM"), "dense GEMM 55.00 55.0 % 90.00 1.50 27.3");
  EXPECT_EQ(row(table, "exchange between ranks"), "exchange between ranks 40.00 40.0 % 0.00");
  EXPECT_NE(table.find("peaks were not measured"), std::string::npos);
}

TEST(Profile, a_hybrid_with_experts_has_every_kind_and_they_add_up_to_its_steps) {
  const test::TemporaryFolder folder;
  Config c =
      test::small_run(folder.path("run"), test::make_store(folder, "data", test::random_texts(60, 90, 1)));
  c.train.steps = 5;
  c.log.evaluate_every = 4;  // within steps 3 to 5
  c.log.profile = true;
  test::train(c, "none");
  const std::string table = test::read_file(c.run.folder + "/profile.txt");
  for (Work work : {Work::attention, Work::scan, Work::dense, Work::experts, Work::routing, Work::pointwise,
                    Work::head, Work::optimizer, Work::data, Work::evaluation, Work::rest})
    EXPECT_EQ(row(table, name_of(work)).find("no row"), std::string::npos) << name_of(work) << "\n" << table;
  EXPECT_EQ(table.find("profile of 3 steps"), 0u) << table;
  double listed = 0;
  for (size_t i = 0; i < kWorks; i++) {
    const std::string name = name_of(Work(i)), cells = row(table, name);
    const double time = cells.starts_with("no row") ? 0 : std::stod(cells.substr(name.size()));
    EXPECT_GE(time, 0) << cells;
    listed += time;
  }
  EXPECT_NEAR(listed, std::stod(row(table, "step").substr(5)), 0.005 * kWorks) << "each is rounded\n"
                                                                               << table;

  // The file tells the same story as the table: what its ops took lies within its steps.
  const std::string path = c.run.folder + "/profile.json";
  double ops = 0, steps = 0;
  std::map<std::string, int64_t> flops;
  for (const Json& e : parse_json(test::read_file(path), path).array) {
    if (e.find("ph")->string != "X") continue;
    const std::string& category = e.find("cat")->string;
    if (category == "step") steps += e.find("dur")->number;
    for (size_t i = 0; i < kWorks; i++)
      if (category == name_of(Work(i)) && Work(i) != Work::data) ops += e.find("dur")->number;
    const Json* args = e.find("args");
    if (const Json* n = args ? args->find("flop") : nullptr) flops[category] += n->integer;
  }
  EXPECT_GT(ops, 0);
  EXPECT_LT(ops, steps);
  for (Work work : {Work::attention, Work::scan, Work::dense, Work::experts, Work::head})
    EXPECT_GT(flops[name_of(work)], 0) << name_of(work);
}

TEST(Profile, changes_no_number_of_the_run) {
  const test::TemporaryFolder folder;
  const std::string data = test::make_store(folder, "data", test::random_texts(60, 90, 1));
  Config plain = test::small_run(folder.path("plain"), data),
         profiled = test::small_run(folder.path("profiled"), data);
  plain.train.steps = profiled.train.steps = 6;
  profiled.log.profile = true, profiled.log.trace_from = 2;
  test::train(plain, "none");
  test::train(profiled, "none");
  EXPECT_EQ(test::metrics(plain.run.folder), test::metrics(profiled.run.folder));
}

TEST(OpFlops, of_a_training_pass_are_three_times_those_of_the_models_forward) {
  test::TestModel model(test::small_model());
  const test::TestBatch batch({5, 9, 2}, model.config().vocab_size, 3);
  Context& ctx = model.context;
  Ops* const plain = ctx.ops;
  ProfiledOps profiled(*plain);
  ctx.ops = &profiled;
  trace::start();
  model.train(batch, batch.scale());
  trace::stop();
  ctx.ops = plain;
  double flops = 0;
  for (const trace::Event& e : trace::events_of_this_thread())
    if (e.counts && std::string(e.counts) == "flop") flops += double(e.number);
  EXPECT_EQ(flops, 3 * forward_flops(model.config(), batch.lengths).total());
}

TEST(OpFlops, attention_to_a_block_of_keys_counts_the_pairs_that_it_sees) {
  const DocumentsBuffer documents({3, 2}, {0, 4});
  const int64_t begin[] = {0, 1}, count[] = {2, 5};
  std::vector<float> memory(5 * 8);
  AttentionForward op{.q = make_tensor(memory.data(), {5, 8}), .head_size = 4, .docs = documents.view()};
  EXPECT_EQ(flops_of(op), 4 * 8 * (1 + 2 + 3 + 1 + 2)) << "keys and queries are one stream";
  op.key_begin = make_tensor(begin, {2});
  EXPECT_EQ(flops_of(op), 4 * 8 * (1 + 2 + 3 + 5 + 6)) << "with a past";
  op.key_count = make_tensor(count, {2});
  EXPECT_EQ(flops_of(op), 4 * 8 * (1 + 2 + 2 + 5 + 5)) << "of a part of the keys";
}

}  // namespace
}  // namespace jambalaya
