#include "train/report/heat_map.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "kernels/error.h"
#include "train/report/scale.h"

namespace jambalaya {

namespace {

constexpr double kWidth = 880, kLeft = 92, kRight = 118, kTop = 30, kBottom = 36, kBar = 14;
constexpr int kLevels = 16;

class HeatMapDrawing {
 public:
  explicit HeatMapDrawing(const HeatMap& map) : map_(map) {
    for (const auto& row : map.values)
      for (double v : row)
        if (drawable(v)) range_.include(scaled(v));
    const double rows = double(std::max<size_t>(map.rows.size(), 1));
    cell_height_ = std::clamp(std::round(150 / rows), 6.0, 18.0);
    cell_width_ = (kWidth - kLeft - kRight) / double(std::max<size_t>(map.columns.size(), 1));
    // The bar of colours beside it needs some height.
    height_ = std::max(cell_height_ * rows, 72.0) + kTop + kBottom;
  }

  std::string draw() {
    if (range_.empty()) return "";
    range_.widen();
    return cat("<svg class=\"chart wide\" role=\"img\" aria-label=\"", escape_markup(map_.title),
               "\" viewBox=\"0 0 ", kWidth, " ", coordinate(height_),
               "\">\n<text class=\"title\" x=\"12\" "
               "y=\"16\">",
               escape_markup(map_.title), map_.unit.empty() ? "" : " (" + escape_markup(map_.unit) + ")",
               "</text>\n", cells(), row_names(), column_names(), color_bar(), "</svg>\n");
  }

 private:
  bool drawable(double v) const { return std::isfinite(v) && (!map_.log_scale || v > 0); }
  double scaled(double v) const { return map_.log_scale ? std::log10(v) : v; }
  int level(double v) const {
    return std::clamp(int((scaled(v) - range_.low) / (range_.high - range_.low) * kLevels), 0, kLevels - 1);
  }
  double bottom() const { return kTop + cell_height_ * double(map_.rows.size()); }

  /// One path for each level, of strokes as thick as a row: neighbours of one level are one stroke. So a map
  /// of a long run takes kilobytes instead of megabytes.
  std::string cells() const {
    std::array<std::string, kLevels> paths;
    for (size_t r = 0; r < map_.values.size(); r++) {
      const std::vector<double>& row = map_.values[r];
      const std::string y = coordinate(kTop + cell_height_ * (double(r) + 0.5));
      for (size_t c = 0; c < row.size();) {
        size_t end = c + 1;
        if (!drawable(row[c])) {
          c = end;
          continue;
        }
        const int color = level(row[c]);
        while (end < row.size() && drawable(row[end]) && level(row[end]) == color) end++;
        paths[size_t(color)] += cat("M", coordinate(kLeft + cell_width_ * double(c)), " ", y, "H",
                                    coordinate(kLeft + cell_width_ * double(end)));
        c = end;
      }
    }
    std::string s = cat("<g class=\"cells\" stroke-width=\"",
                        coordinate(cell_height_ - (cell_height_ < 10 ? 0 : 0.6)), "\">\n");
    for (int i = 0; i < kLevels; i++)
      if (!paths[size_t(i)].empty()) s += cat("<path class=\"h", i, "\" d=\"", paths[size_t(i)], "\"/>\n");
    return s + "</g>\n";
  }

  std::string row_names() const {
    std::string s;
    const size_t every = size_t(std::ceil(11 / cell_height_));
    for (size_t r = 0; r < map_.rows.size(); r += every)
      s += cat("<text class=\"tick end\" x=\"", kLeft - 6, "\" y=\"",
               coordinate(kTop + cell_height_ * (double(r) + 0.5) + 3.5), "\">", escape_markup(map_.rows[r]),
               "</text>\n");
    return s;
  }

  std::string column_names() const {
    std::string s;
    const size_t n = map_.columns.size(), every = std::max<size_t>(1, (n + 9) / 10);
    for (size_t c = 0; c < n; c += every)
      s += cat("<text class=\"tick mid\" x=\"", coordinate(kLeft + cell_width_ * (double(c) + 0.5)),
               "\" y=\"", coordinate(bottom() + 15), "\">",
               map_.columns[c] < 1e4 ? short_text(map_.columns[c]) : rounded(map_.columns[c]), "</text>\n");
    s += cat("<text class=\"tick end\" x=\"", kLeft - 6, "\" y=\"", coordinate(bottom() + 15), "\">",
             escape_markup(map_.y_label), "</text>\n");
    return s + cat("<text class=\"tick end\" x=\"", kWidth - kRight, "\" y=\"", coordinate(bottom() + 30),
                   "\">", escape_markup(map_.x_label), "</text>\n");
  }

  std::string color_bar() const {
    const double x = kWidth - kRight + 22, tall = height_ - kTop - kBottom, step = tall / kLevels;
    std::string s = cat("<g class=\"cells\" stroke-width=\"", kBar, "\">\n");
    for (int i = 0; i < kLevels; i++)
      s += cat("<path class=\"h", i, "\" d=\"M", x, " ", coordinate(kTop + tall - step * i), "V",
               coordinate(kTop + tall - step * (i + 1)), "\"/>\n");
    s += "</g>\n";
    for (double part : {0.0, 0.5, 1.0}) {
      const double at = range_.low + part * (range_.high - range_.low);
      s += cat("<text class=\"tick\" x=\"", x + kBar, "\" y=\"", coordinate(kTop + tall * (1 - part) + 3.5),
               "\">", rounded(map_.log_scale ? std::pow(10, at) : at), "</text>\n");
    }
    return s;
  }

  static std::string rounded(double v) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g", v);
    return short_text(std::stod(text));
  }

  const HeatMap& map_;
  Range range_;
  double cell_height_, cell_width_, height_;
};

}  // namespace

std::string heat_map(const HeatMap& map) { return HeatMapDrawing(map).draw(); }

std::string heat_map_style() {
  static const int anchors[][3] = {{68, 1, 84}, {59, 82, 139}, {33, 145, 140}, {94, 201, 98}, {253, 231, 37}};
  std::string style = "svg .cells path{fill:none;shape-rendering:crispEdges}\n";
  for (int i = 0; i < kLevels; i++) {
    const double at = 4.0 * i / (kLevels - 1);
    const int from = std::min(int(at), 3);
    int rgb[3];
    for (int c = 0; c < 3; c++)
      rgb[c] = int(std::lround(anchors[from][c] + (at - from) * (anchors[from + 1][c] - anchors[from][c])));
    char text[64];
    std::snprintf(text, sizeof text, "svg .h%d{stroke:#%02x%02x%02x}", i, rgb[0], rgb[1], rgb[2]);
    style += text;
  }
  return style + "\n";
}

void merge_columns(HeatMap& map, size_t columns, Keep keep) {
  const size_t n = map.columns.size(), parts = std::min(n, columns);
  const auto better = [&](double a, double b) {
    return std::isfinite(a) && (!std::isfinite(b) || (keep == Keep::largest ? a > b : a < b));
  };
  std::vector<double> names;
  for (size_t i = 0; i < parts; i++) names.push_back(map.columns[n * i / parts]);
  for (auto& row : map.values) {
    std::vector<double> merged;
    for (size_t i = 0; i < parts; i++) {
      double best = row[n * i / parts];
      for (size_t c = n * i / parts; c < n * (i + 1) / parts; c++)
        if (better(row[c], best)) best = row[c];
      merged.push_back(best);
    }
    row = std::move(merged);
  }
  map.columns = std::move(names);
}

}  // namespace jambalaya
