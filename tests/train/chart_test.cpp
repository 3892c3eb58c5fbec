// Charts: the picture of a run is well-formed XML, draws what is there and nothing else, and stays inside its
// frame.
#include "train/report/chart.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <regex>

#include "tests/support/files.h"
#include "tests/support/markup.h"

namespace jambalaya {
namespace {

using test::count;
using test::mentions;
using test::xml_problem;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// The points of each path: x, y and whether the pen was down on the way there.
struct Point {
  bool drawn;
  double x, y;
};
std::vector<std::vector<Point>> paths(const std::string& svg) {
  std::vector<std::vector<Point>> all;
  static const std::regex path(R"re( d="([^"]*)")re"), point(R"re(([ML])(-?[0-9.]+) (-?[0-9.]+))re");
  for (std::sregex_iterator p(svg.begin(), svg.end(), path), end; p != end; ++p) {
    const std::string d = (*p)[1];
    all.emplace_back();
    size_t length = 0;
    for (std::sregex_iterator q(d.begin(), d.end(), point); q != end; ++q) {
      all.back().push_back({(*q)[1] == "L", std::stod((*q)[2]), std::stod((*q)[3])});
      length += size_t(q->length());
    }
    EXPECT_EQ(length, d.size()) << "unreadable path " << d;
  }
  return all;
}

Panel panel(const std::string& title, std::vector<std::pair<double, double>> points, bool log_scale = false) {
  return {title, "unit", {{"", std::move(points)}}, log_scale};
}

TEST(Chart, checker_tells_good_xml_from_bad) {
  EXPECT_EQ(xml_problem("<a b=\"c\"><d/>x &lt; y</a>\n"), "");
  for (const char* bad : {"<a>", "<a></b>", "<a>x & y</a>\n", "<a b=c></a>\n", "<a></a>\n<b></b>\n", "<a"})
    EXPECT_NE(xml_problem(bad), "") << bad;
}

TEST(Chart, picture_is_one_svg_with_a_group_for_each_panel) {
  const std::vector<std::pair<double, double>> points = {{1, 5}, {2, 4}, {3, 4.5}};
  for (int panels = 0; panels <= 5; panels++) {
    const std::string svg = draw_panels("run", std::vector<Panel>(size_t(panels), panel("loss", points)));
    EXPECT_EQ(xml_problem(svg), "");
    EXPECT_TRUE(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ")) << svg;
    EXPECT_TRUE(svg.ends_with("</svg>\n"));
    EXPECT_EQ(count(svg, "<g "), size_t(panels));
    EXPECT_EQ(paths(svg).size(), size_t(panels));
    EXPECT_EQ(count(svg, "loss (unit)"), size_t(panels));
  }
}

TEST(Chart, panels_without_a_point_to_draw_are_left_out) {
  const Panel first = panel("first", {{1, 1}, {2, 2}}), last = panel("last", {{1, 3}, {2, 1}});
  const std::string want = draw_panels("run", {first, last});
  EXPECT_EQ(draw_panels("run", {first, panel("empty", {}), last}), want);
  EXPECT_EQ(draw_panels("run", {{"no curve", "", {}, false}, first, last}), want);
  EXPECT_EQ(draw_panels("run", {first, panel("nan", {{1, kNan}, {2, kInfinity}}), last}), want);
  EXPECT_EQ(draw_panels("run", {first, last, panel("log", {{1, 0}, {2, -3}}, true)}), want);
  EXPECT_EQ(xml_problem(want), "");
}

TEST(Chart, value_that_is_not_finite_leaves_a_gap) {
  for (double hole : {kNan, kInfinity, -kInfinity}) {
    const auto all = paths(draw_panels("run", {panel("loss", {{1, 1}, {2, 2}, {3, hole}, {4, 3}, {5, 4}})}));
    ASSERT_EQ(all.size(), 1u);
    ASSERT_EQ(all[0].size(), 4u);
    const bool drawn[] = {false, true, false, true};
    for (size_t i = 0; i < 4; i++) EXPECT_EQ(all[0][i].drawn, drawn[i]) << i;
  }
  // A logarithm has no place for zero either. The point left alone before it is drawn twice: a dot.
  const auto all = paths(draw_panels("run", {panel("loss", {{1, 1}, {2, 0}, {3, 3}, {4, 4}}, true)}));
  ASSERT_EQ(all.at(0).size(), 4u);
  EXPECT_EQ(all[0][0].x, all[0][1].x);
  EXPECT_TRUE(all[0][1].drawn);
  EXPECT_FALSE(all[0][2].drawn);
  EXPECT_TRUE(all[0][3].drawn);
}

TEST(Chart, text_is_escaped) {
  Panel p = panel("a < b & c > d", {{1, 1}, {2, 2}});
  p.unit = "x<y";
  p.curves[0].label = "<script>&amp;";
  const std::string svg = draw_panels("</svg> & \"more\"", {p});
  EXPECT_EQ(xml_problem(svg), "");
  for (const char* part :
       {">a &lt; b &amp; c &gt; d (x&lt;y)<", ">&lt;script&gt;&amp;amp;<", ">&lt;/svg&gt; &amp; "})
    EXPECT_TRUE(mentions(svg, part));
}

TEST(Chart, points_keep_their_order_and_stay_inside_the_panel) {
  for (bool log_scale : {false, true}) {
    const auto all = paths(
        draw_panels("run", {panel("p", {{0, 1}, {10, 10}, {20, 100}, {40, 1000}, {80, 0.001}}, log_scale)}));
    ASSERT_EQ(all.at(0).size(), 5u);
    const std::vector<Point>& at = all[0];
    for (const Point& p : at) {
      EXPECT_GE(p.x, 0);
      EXPECT_LE(p.x, 440);
      EXPECT_GE(p.y, 0);
      EXPECT_LE(p.y, 240);
    }
    for (size_t i = 1; i < 4; i++) EXPECT_LT(at[i].y, at[i - 1].y) << "larger values lie higher";
    EXPECT_GT(at[4].y, at[0].y);
    // Steps are even: 0, 10, 20, 40, 80.
    for (size_t i = 1; i < 5; i++)
      EXPECT_NEAR(at[i].x - at[0].x, (at[1].x - at[0].x) * (i < 3 ? double(i) : i < 4 ? 4 : 8), 1);
    if (log_scale)  // each factor of 10 is as high as the other
      EXPECT_NEAR(at[0].y - at[1].y, at[2].y - at[3].y, 0.2);
    else
      EXPECT_NEAR((at[0].y - at[2].y) / (at[0].y - at[3].y), 99.0 / 999, 1e-2);
  }
}

TEST(Chart, curves_that_do_not_change_and_single_points_have_a_place) {
  for (double value : {0.0, 1.0, -2.5, 1e-300, 1e30}) {
    for (const auto& points :
         {std::vector<std::pair<double, double>>{{1, value}, {2, value}}, {{7, value}}}) {
      const std::string svg = draw_panels("run", {panel("p", points)});
      EXPECT_EQ(xml_problem(svg), "");
      for (const char* broken : {"nan", "inf"}) EXPECT_EQ(count(svg, broken), 0u) << value;
      ASSERT_EQ(paths(svg).at(0).size(), 2u);  // a single point is a line of no length
    }
  }
}

TEST(Chart, curves_of_a_panel_differ_in_colour_and_have_their_labels) {
  const std::string svg =
      draw_panels("run", {{"p", "", {{"one", {{1, 1}, {2, 2}}}, {"two", {{1, 2}, {2, 1}}}}, false}});
  EXPECT_EQ(paths(svg).size(), 2u);
  std::smatch m;
  static const std::regex colors(R"re(<path class="line (c[0-9])"[^]*<path class="line (c[0-9])")re");
  ASSERT_TRUE(std::regex_search(svg, m, colors));
  EXPECT_NE(m[1], m[2]);
  for (const char* label : {">one</text>", ">two</text>"}) EXPECT_TRUE(mentions(svg, label));
}

}  // namespace
}  // namespace jambalaya
