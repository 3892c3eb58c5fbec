// What is recorded, and that nothing is when nobody asked.
#include "kernels/trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "kernels/json_text.h"

namespace jambalaya {
namespace {

size_t occurrences(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) n++;
  return n;
}
/// The number after `key` of the event called `name`.
double field(const std::string& text, const std::string& name, const std::string& key) {
  const size_t event = text.find("{\"name\":\"" + name + "\"");
  EXPECT_NE(event, std::string::npos) << name << " is not in " << text;
  return std::stod(text.substr(text.find("\"" + key + "\":", event) + key.size() + 3));
}

TEST(Trace, records_only_between_start_and_stop) {
  trace::take_events(0, "", 0);
  { TraceScope before("before", "test"); }
  trace::start();
  { TraceScope during("during", "test"); }
  trace::stop();
  { TraceScope after("after", "test"); }
  const std::string text = trace::take_events(3, "rank 3", 0);
  EXPECT_EQ(occurrences(text, "\"ph\":\"X\""), 1u) << text;
  EXPECT_EQ(occurrences(text, "\"during\""), 1u);
  EXPECT_EQ(field(text, "during", "pid"), 3);
  EXPECT_EQ(occurrences(trace::take_events(3, "rank 3", 0), "\"ph\":\"X\""), 0u) << "taken once";
}

TEST(Trace, a_scope_that_began_before_the_stop_is_kept) {
  trace::start();
  {
    TraceScope scope("kept", "test");
    trace::stop();
  }
  EXPECT_EQ(occurrences(trace::take_events(0, "", 0), "\"kept\""), 1u);
}

TEST(Trace, inner_scopes_lie_within_outer_ones_on_one_clock) {
  trace::start();
  {
    TraceScope outer("outer", "test");
    TraceScope inner("inner", "test");
  }
  trace::stop();
  const std::string text = trace::take_events(0, "", 0);
  const double outer = field(text, "outer", "ts"), inner = field(text, "inner", "ts");
  EXPECT_LE(outer, inner);
  EXPECT_GE(outer + field(text, "outer", "dur") + 0.002, inner + field(text, "inner", "dur"));
  EXPECT_GT(outer, 1.6e15) << "microseconds since 1970";
}

TEST(Trace, times_count_from_the_origin) {
  trace::start();
  { TraceScope scope("early", "test"); }
  trace::stop();
  const double at = field(trace::take_events(0, "", trace::started_ns() - 5'000'000'000), "early", "ts");
  EXPECT_GE(at, 4.9e6);  // microseconds; the steady and the system clock may drift a little
  EXPECT_LT(at, 60e6);
}

TEST(Trace, threads_have_rows_of_their_own_with_names) {
  trace::start();
  { TraceScope here("here", "test"); }
  std::thread other([] {
    trace::name_thread("communi\"cation");
    TraceScope there("there", "test");
  });
  other.join();
  trace::stop();
  const std::string text = trace::take_events(0, "", 0);
  EXPECT_NE(field(text, "here", "tid"), field(text, "there", "tid"));
  EXPECT_EQ(occurrences(text, "\"main\""), 1u) << text;
  EXPECT_EQ(occurrences(text, "\"communi\\\"cation\""), 1u) << text;
}

TEST(Trace, collectives_carry_group_number_and_bytes) {
  trace::start();
  trace::record({.name = "all-reduce",
                 .category = "communication",
                 .begin_ns = 5,
                 .end_ns = 7,
                 .group = trace::intern("tensor"),
                 .number = 4711,
                 .bytes = 12});
  trace::stop();
  const std::string text = trace::take_events(0, "", 0);
  EXPECT_NE(text.find(R"("args":{"group":"tensor","number":4711,"bytes":12})"), std::string::npos) << text;
}

TEST(Trace, a_long_recording_keeps_its_beginning_and_counts_the_rest) {
  trace::start();
  for (int i = 0; i < (1 << 20) + 5; i++) trace::record({.name = "many", .category = "test"});
  trace::stop();
  const std::string text = trace::take_events(0, "", 0);
  EXPECT_EQ(occurrences(text, "\"many\""), size_t(1) << 20);
  EXPECT_NE(text.find("and 5 more events"), std::string::npos);
}

TEST(Trace, equal_texts_are_kept_once) {
  const char* first = trace::intern("a group");
  EXPECT_EQ(first, trace::intern(std::string("a ") + "group"));
  EXPECT_STREQ(first, "a group");
}

TEST(JsonText, control_characters_quotes_and_backslashes_are_escaped) {
  EXPECT_EQ(json_quoted("a\"b\\c\n\x01ü"), "\"a\\\"b\\\\c\\u000a\\u0001ü\"");
}

TEST(Trace, a_scope_tells_what_it_counts_and_moves) {
  EXPECT_STREQ(trace::numbered("gather unit", 3), "") << "nobody asked";
  trace::start();
  { TraceScope layer("mlp", "compute", "layer", 7); }
  { TraceScope job(trace::numbered("gather unit", 3), "gather", "unit", 3, 4096); }
  trace::stop();
  const std::string text = trace::take_events(0, "", 0);
  EXPECT_NE(text.find("\"args\":{\"layer\":7}}"), std::string::npos) << text;
  EXPECT_NE(text.find("\"gather unit 3\""), std::string::npos) << text;
  EXPECT_NE(text.find("\"args\":{\"unit\":3,\"bytes\":4096}}"), std::string::npos) << text;
}

}  // namespace
}  // namespace jambalaya
