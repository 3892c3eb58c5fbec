// The page of a run: what the folder holds is there, text from outside stays text, and a long run's page is
// small.
#include "train/report/run_report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <regex>
#include <set>

#include "tests/support/files.h"
#include "tests/support/markup.h"
#include "train/report/heat_map.h"
#include "train/report/html.h"
#include "train/report/run_panels.h"
#include "train/report/time_account.h"

namespace jambalaya {
namespace {

using test::count;
using test::error_of;
using test::mentions;

/// A line of metrics.jsonl with telemetry of `layers` layers, every second with four experts, of every fourth
/// without Mamba.
std::string metrics_line(int step, int layers, double seconds = 1) {
  std::string s = cat("{\"step\": ", step, ", \"tokens\": ", 100 * step, ", \"loss\": ", 5.0 - 0.01 * step,
                      ", \"aux_loss\": 2, \"grad_norm\": 0.5, \"lr\": 0.001");
  if (step % 4 == 0)
    s += cat(", \"held_out_nats_per_token\": 4.5, \"held_out_bits_per_byte\": ", 3.0 - 0.01 * step,
             ", \"max_expert_load\": 1.2");
  if (layers) {
    s += ", \"layers\": [";
    for (int l = 0; l < layers; l++) {
      s += cat(l ? ", " : "", "{\"mixer_max\": ", 1 + l + step % 7, ", \"channel_max\": ", 2 + l % 5);
      if (l % 4) s += cat(", \"delta_min\": ", 0.001 * (l + step % 13), ", \"delta_max\": 0.5");
      if (l % 2) s += ", \"expert_load\": [0.1, 0.2, 0.3, 0.4]";
      s += "}";
    }
    s += "]";
  }
  return s + cat(", \"timing\": {\"seconds\": ", seconds,
                 ", \"tokens_per_s\": 100, \"data_wait_s\": 0.25, \"reduce_wait_s\": 0.125, \"rss_bytes\": "
                 "1073741824}}\n");
}

class RunReport : public testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) const {
    test::write_bytes(folder_ / name, text);
  }
  void write_metrics(int steps, int layers) const {
    std::string lines;
    for (int step = 1; step <= steps; step++) lines += metrics_line(step, layers);
    write("metrics.jsonl", lines);
  }
  std::string page() const { return run_report(read_run(folder_.path()), 1.8e9); }
  test::TemporaryFolder folder_;
};

TEST_F(RunReport, figures_of_the_run_are_on_the_page) {
  write_metrics(8, 8);
  write("config.yaml",
        "schema_version: 1\nmodel: {hidden_size: 1234, num_attention_heads: 2, num_key_value_heads: 1}\n");
  write("samples.jsonl",
        "{\"step\": 4, \"prompt\": \"Once\", \"text\": \" a time\"}\n{\"step\": 8, \"prompt\": \"Once\", "
        "\"text\": "
        "\" upon\"}\n");
  const std::string html = page();
  for (const char* part :
       {"<b>4.92</b><span>training loss", "<b>2.92</b><span>held-out bits per byte, last",
        "<b>800</b><span>tokens", "<b>1 GiB</b>", "Loss (nats per token)", "Gradient norm", "Learning rate",
        "tokens per second", "Experts: largest load of one, by layer", "Load of every expert at step 8",
        "largest step size", "Largest output of attention", ">Once …<", ">step 4<", "> upon<",
        "<b>  hidden_size: 1234</b>", "Where the time went", "2027-01-15 08:00 UTC"})
    EXPECT_TRUE(mentions(html, part));
  // Loss, held-out, norm, rate, speed, memory, expert load, balance; six maps; bar and swatches of the time.
  EXPECT_EQ(count(html, "<svg class=\"chart\""), 8u);
  EXPECT_EQ(count(html, "<svg class=\"chart wide\""), 7u);
}

TEST_F(RunReport, what_a_run_does_not_have_is_left_out) {
  write("metrics.jsonl", "{\"step\": 1, \"loss\": 5}\n");
  const std::string html = page();
  EXPECT_EQ(count(html, "<svg class=\"chart\""), 1u);
  for (const char* part :
       {"Samples", "Layers", "Where the time went", "Environment", "<h2>Config", "nan", "inf"})
    EXPECT_EQ(count(html.substr(html.find("</style>")), part), 0u) << part;
}

/// Tags and attributes that the page may have; nothing that loads, runs or points anywhere.
void expect_harmless(const std::string& html) {
  static const std::set<std::string> tags = {"html",    "head",  "meta",  "title", "style", "body", "header",
                                             "section", "h1",    "h2",    "h3",    "p",     "div",  "span",
                                             "b",       "table", "thead", "tbody", "tr",    "th",   "td",
                                             "svg",     "g",     "path",  "line",  "rect",  "text", "pre"};
  static const std::set<std::string> attributes = {
      "lang", "charset", "http-equiv", "content", "name", "class", "role",  "aria-label", "viewBox",     "x",
      "y",    "x1",      "x2",         "y1",      "y2",   "d",     "width", "height",     "stroke-width"};
  static const std::regex tag(R"re(<(/?)([a-z0-9]+)((?: [A-Za-z0-9-]+="[^"<>]*")*)/?>)re"),
      attribute(R"re( ([A-Za-z0-9-]+)=")re");
  EXPECT_TRUE(mentions(html, "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\""));
  const std::string body = html.substr(html.find("<html"));
  size_t found = 0;
  for (std::sregex_iterator t(body.begin(), body.end(), tag), end; t != end; ++t, found++) {
    EXPECT_TRUE(tags.contains((*t)[2])) << t->str();
    const std::string list = (*t)[3];
    for (std::sregex_iterator a(list.begin(), list.end(), attribute); a != end; ++a)
      EXPECT_TRUE(attributes.contains((*a)[1])) << t->str();
  }
  EXPECT_EQ(found, count(body, "<")) << "a < that begins no tag of ours";
  EXPECT_EQ(count(html, "<style>"), 1u);
  EXPECT_EQ(count(html, "url("), 0u);
}

TEST_F(RunReport, text_from_outside_stays_text) {
  const std::string evil = R"(</pre><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;)",
                    line = metrics_line(1, 8);
  write("metrics.jsonl", line.substr(0, line.size() - 2) + cat(", \"skipped\": \"", evil, "\"}\n"));
  write("samples.jsonl",
        cat("{\"step\": 1, \"prompt\": \"", evil, "\", \"text\": \"", evil, "\\u0001\\u001b[2J\"}\n"));
  write("journal.jsonl",
        cat("{\"event\": \"start\", \"time\": 1.7e9, \"step\": 0, \"environment\": {\"a", evil, "\": \"",
            evil, "\"}}\n{\"event\": \"end\", \"time\": 1.7e9, \"step\": 1, \"why\": \"", evil, "\"}\n"));
  for (const std::string& config : {cat("schema_version: 1\nrun: {folder: \"", evil, "\"}\n"), evil}) {
    write("config.yaml", config);
    const std::string html = page();
    expect_harmless(html);
    EXPECT_GE(count(html, "&lt;script&gt;alert(1)"), 6u);
    EXPECT_EQ(count(html, "\x1b"), 0u);
  }
}

TEST_F(RunReport, long_text_is_cut_between_characters) {
  EXPECT_EQ(shortened("aäb", 10), "aäb");
  EXPECT_EQ(shortened("aäb", 2), "a…");
  EXPECT_EQ(shortened("aäbc", 3), "aä…");
}

TEST_F(RunReport, page_of_a_long_run_stays_below_a_megabyte) {
  std::string lines, samples;
  for (int step = 1; step <= 3000; step++) lines += metrics_line(step, step % 10 ? 0 : 72);
  for (int i = 0; i < 400; i++)
    samples += cat("{\"step\": ", 7 * (i / 4), ", \"prompt\": \"p", i % 4, "\", \"text\": \"",
                   std::string(5000, 'x'), "\"}\n");
  write("metrics.jsonl", lines);
  write("samples.jsonl", samples);
  const std::string html = page();
  EXPECT_LT(html.size(), 700'000u);
  EXPECT_TRUE(mentions(html, ">step 693<")) << "the last sample is shown";
  EXPECT_TRUE(mentions(html, "class=\"band c0\""));
}

TEST_F(RunReport, half_a_line_at_the_end_is_passed_over_and_a_damaged_one_is_named) {
  write("metrics.jsonl", metrics_line(1, 0) + metrics_line(2, 0) + "{\"step\": 3, \"lo");
  write("journal.jsonl", "{\"event\": \"start\", \"ti");
  EXPECT_EQ(read_run(folder_.path()).steps, 2);
  write("metrics.jsonl", metrics_line(1, 0) + "{\"step\": 3, \"lo\n" + metrics_line(2, 0));
  EXPECT_TRUE(mentions(error_of(Exit::bad_input, [&] { page(); }), "metrics.jsonl:2"));
  EXPECT_TRUE(mentions(error_of(Exit::bad_input, [&] { read_run(folder_ / "none"); }), "none/metrics.jsonl"));
}

TEST_F(RunReport, shares_of_the_time_add_up_and_lost_steps_are_not_good) {
  // Killed at 40 s with four steps done behind its checkpoint of step 4; done again from there; 100 s up in
  // all.
  std::string lines;
  for (int step = 1; step <= 8; step++) lines += metrics_line(step, 0, 4);
  write("metrics.jsonl", lines);
  write("journal.jsonl",
        "{\"event\": \"start\", \"time\": 1000, \"step\": 0, \"steps\": 8}\n"
        "{\"event\": \"checkpoint\", \"time\": 1020, \"step\": 4, \"seconds\": 2}\n"
        "{\"event\": \"start\", \"time\": 5000, \"step\": 4, \"steps\": 8, \"previous_until\": 1040, "
        "\"redone_steps\": 4, \"redone_s\": 16}\n"
        "{\"event\": \"checkpoint\", \"time\": 5050, \"step\": 8, \"seconds\": 3}\n"
        "{\"event\": \"end\", \"time\": 5060, \"step\": 8, \"why\": \"done\"}\n");
  const RunData run = read_run(folder_.path());
  const std::vector<Session> sessions = sessions_of(run);
  ASSERT_EQ(sessions.size(), 2u);
  EXPECT_EQ(sessions[0].end, 1040);
  EXPECT_EQ(sessions[0].to_step, 8);
  EXPECT_EQ(sessions[0].why_ended, "");
  EXPECT_EQ(sessions[1].why_ended, "done");
  EXPECT_EQ(sessions[1].redone_steps, 4);
  const TimeAccount account = time_account(run);
  EXPECT_EQ(account.total, 100);
  EXPECT_DOUBLE_EQ(account.goodput, 0.32);
  double sum = 0;
  std::map<std::string, double> shares;
  for (const TimeShare& share : account.shares) sum += shares[share.what] = share.seconds;
  EXPECT_DOUBLE_EQ(sum, 100);
  EXPECT_EQ(shares["checkpoints"], 5);
  EXPECT_EQ(shares["steps that were lost and done again"], 16);
  EXPECT_EQ(shares["waiting for data"], 2);
  EXPECT_EQ(shares["computation and communication"], 32 - 2 - 1);
  EXPECT_TRUE(mentions(page(), "finished at step 8"));
}

TEST_F(RunReport, curves_are_drawn_from_the_metrics) {
  write_metrics(3, 0);
  write_run_curves(read_run(folder_.path()), "a & b");
  const std::string svg = test::read_bytes(folder_ / "curves.svg");
  EXPECT_EQ(test::xml_problem(svg), "");
  EXPECT_TRUE(mentions(svg, "a &amp; b"));
  EXPECT_EQ(count(svg, "<g "), 6u) << "loss, norm, rate, speed, memory, balance";
  EXPECT_EQ(count(svg, "Held-out"), 0u);
}

TEST(HeatMap, levels_follow_the_values) {
  HeatMap map{.title = "t", .columns = {1, 2, 3, 4}, .rows = {"0"}, .values = {{1, 1, 100, std::nan("")}}};
  const std::string svg = heat_map(map);
  EXPECT_EQ(test::xml_problem(svg), "");
  // One stroke for both low cells; the high one begins where they end; nothing for the missing one.
  std::smatch low, high;
  ASSERT_TRUE(std::regex_search(svg, low, std::regex(R"re(class="h0" d="M([0-9.]+) [0-9.]+H([0-9.]+)"/)re")));
  ASSERT_TRUE(
      std::regex_search(svg, high, std::regex(R"re(class="h15" d="M([0-9.]+) [0-9.]+H([0-9.]+)"/)re")));
  EXPECT_EQ(low[2], high[1]);
  EXPECT_NEAR(std::stod(low[2]) - std::stod(low[1]), 2 * (std::stod(high[2]) - std::stod(high[1])), 0.2);
  EXPECT_EQ(count(svg, "H"), 2u);
  map.log_scale = true;
  map.values = {{1, 10, 100, 0}};
  EXPECT_TRUE(mentions(heat_map(map), "class=\"h8\" d=\"M")) << "the middle of the decades";
  map.values = {{}};
  EXPECT_EQ(heat_map(map), "");
}

TEST(HeatMap, merging_keeps_extremes) {
  HeatMap map{.columns = {1, 2, 3, 4, 5}, .rows = {"0"}, .values = {{5, std::nan(""), 1, 9, 2}}};
  HeatMap other = map;
  merge_columns(map, 2, Keep::largest);
  EXPECT_EQ(map.columns, (std::vector<double>{1, 3}));
  EXPECT_EQ(map.values[0], (std::vector<double>{5, 9}));
  merge_columns(other, 2, Keep::smallest);
  EXPECT_EQ(other.values[0], (std::vector<double>{5, 1}));
}

}  // namespace
}  // namespace jambalaya
