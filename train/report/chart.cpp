#include "train/report/chart.h"

#include <algorithm>
#include <cmath>

#include "kernels/error.h"
#include "train/report/scale.h"

namespace jambalaya {

namespace {

constexpr double kWidth = 440, kHeight = 240, kLeft = 52, kRight = 14, kTop = 30, kBottom = 36;
constexpr double kLegend = 16;   // height of the row of labels
constexpr double kLetter = 6.3;  // mean width at this size
constexpr size_t kColors = 8;
constexpr size_t kMostPoints = 400;  // of a curve; more than there are pixels would only cost bytes

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

/// A point as it is drawn: where many lie close together, their mean and range.
struct Drawn {
  double x = 0, value = kNone, low = kNone, high = kNone;
};

class PanelDrawing {
 public:
  explicit PanelDrawing(const Panel& panel) : panel_(panel) {
    for (const Curve& c : panel.curves) {
      curves_.push_back(thinned(c.points));
      for (const Drawn& p : curves_.back())
        if (std::isfinite(p.value)) {
          xs_.include(p.x);
          values_.include(scaled(p.low));
          values_.include(scaled(p.high));
        }
      legend_ |= !c.label.empty();
    }
    if (xs_.empty()) return;
    if (panel.from_zero && !panel.log_scale) values_.include(0);
    xs_.widen();
    values_.widen();
    values_.pad(0.04);
    if (panel.from_zero && values_.high > 0) values_.low = std::max(values_.low, 0.0);
  }

  /// The inside of an <svg> of kWidth x kHeight; "" when there is nothing to draw.
  std::string draw() {
    if (xs_.empty()) return "";
    std::string s =
        cat("<text class=\"title\" x=\"", kLeft - 40, "\" y=\"16\">", escape_markup(panel_.title),
            panel_.unit.empty() ? "" : " (" + escape_markup(panel_.unit) + ")", "</text>\n", axes());
    double label_at = kLeft;
    for (size_t i = 0; i < curves_.size(); i++) {
      const std::string color = cat("c", i % kColors);
      s += band(curves_[i], color) + line(curves_[i], color);
      s += label(i, color, label_at);
    }
    return s;
  }

 private:
  bool drawable(double v) const { return std::isfinite(v) && (!panel_.log_scale || v > 0); }
  double scaled(double v) const { return panel_.log_scale ? std::log10(v) : v; }
  double top() const { return kTop + (legend_ ? kLegend : 0); }
  double at_x(double x) const {
    return kLeft + (x - xs_.low) / (xs_.high - xs_.low) * (kWidth - kLeft - kRight);
  }
  double at_y(double v) const {
    return kHeight - kBottom -
           (scaled(v) - values_.low) / (values_.high - values_.low) * (kHeight - top() - kBottom);
  }

  std::vector<Drawn> thinned(const std::vector<std::pair<double, double>>& points) const {
    const size_t parts = std::min(points.size(), kMostPoints);
    std::vector<Drawn> drawn(parts);
    for (size_t i = 0; i < parts; i++) {
      const size_t begin = points.size() * i / parts, end = points.size() * (i + 1) / parts;
      double sum = 0;
      int64_t n = 0;
      Range range;
      for (size_t j = begin; j < end; j++) {
        if (!drawable(points[j].second)) continue;
        sum += points[j].second;
        n++;
        range.include(points[j].second);
      }
      drawn[i].x = points[(begin + end - 1) / 2].first;
      if (n) drawn[i].value = sum / double(n), drawn[i].low = range.low, drawn[i].high = range.high;
    }
    return drawn;
  }

  std::string axes() const {
    std::string s;
    const std::vector<double> values = panel_.log_scale ? log_ticks(values_, 4) : round_ticks(values_, 4);
    for (double v : values) {
      const double y = at_y(v);
      s += cat("<line class=\"grid\" x1=\"", kLeft, "\" x2=\"", kWidth - kRight, "\" y1=\"", coordinate(y),
               "\" y2=\"", coordinate(y), "\"/>", "<text class=\"tick end\" x=\"", kLeft - 6, "\" y=\"",
               coordinate(y + 3.5), "\">", short_text(v), "</text>\n");
    }
    for (double v : round_ticks(xs_, 5))
      s += cat("<text class=\"tick mid\" x=\"", coordinate(at_x(v)), "\" y=\"", kHeight - kBottom + 15, "\">",
               short_text(v), "</text>\n");
    return s + cat("<text class=\"tick end\" x=\"", kWidth - kRight, "\" y=\"", kHeight - 5, "\">",
                   escape_markup(panel_.x_label), "</text>\n");
  }

  /// Line, moving on where values are missing. A point without neighbours becomes a line of no length, which
  /// round caps show as a dot.
  std::string line(const std::vector<Drawn>& points, const std::string& color) const {
    std::string path, point;
    int run = 0;  // points of the stretch without a gap
    const auto end_run = [&] {
      if (run == 1) path += "L" + point;
      run = 0;
    };
    for (const Drawn& p : points) {
      if (!std::isfinite(p.value)) {
        end_run();
        continue;
      }
      point = cat(coordinate(at_x(p.x)), " ", coordinate(at_y(p.value)));
      path += (run++ ? "L" : "M") + point;
    }
    end_run();
    return path.empty() ? "" : cat("<path class=\"line ", color, "\" d=\"", path, "\"/>\n");
  }

  std::string band(const std::vector<Drawn>& points, const std::string& color) const {
    std::string forth, back;
    bool wide = false;
    for (const Drawn& p : points) {
      if (!std::isfinite(p.value)) continue;
      wide |= p.low != p.high;
      const std::string x = coordinate(at_x(p.x)) + " ";
      forth += (forth.empty() ? "M" : "L") + x + coordinate(at_y(p.high));
      back = "L" + x + coordinate(at_y(p.low)) + back;
    }
    return wide ? cat("<path class=\"band ", color, "\" d=\"", forth, back, "Z\"/>\n") : "";
  }

  /// The curve's name and last value: under the title, or at its right when there is but one curve.
  std::string label(size_t i, const std::string& color, double& at) const {
    const Curve& curve = panel_.curves[i];
    const auto last = std::find_if(curve.points.rbegin(), curve.points.rend(),
                                   [&](const auto& p) { return drawable(p.second); });
    if (last == curve.points.rend()) return "";
    const std::string value = short_text(last->second);
    if (!legend_)
      return cat("<text class=\"tick end\" x=\"", kWidth - kRight, "\" y=\"16\">", value, "</text>\n");
    const std::string s = cat("<text class=\"label ", color, "\" x=\"", coordinate(at), "\" y=\"", kTop + 4,
                              "\">", escape_markup(curve.label), "</text><text class=\"tick\" x=\"",
                              coordinate(at + kLetter * double(curve.label.size()) + 6), "\" y=\"", kTop + 4,
                              "\">", value, "</text>\n");
    at += kLetter * double(curve.label.size() + value.size()) + 30;
    return s;
  }

  const Panel& panel_;
  std::vector<std::vector<Drawn>> curves_;
  bool legend_ = false;
  Range xs_, values_;
};

}  // namespace

std::string chart_style() {
  // Blue, vermilion, green, purple, ochre and grey differ for the colour-blind too (after Okabe and Ito). The
  // levels of heat maps go from dark to light at an even pace (after matplotlib's viridis).
  return R"(:root{--paper:#fff;--ink:#1d2329;--soft:#5b6670;--rule:#e3e7ea;--c0:#0067a8;--c1:#c9520a;--c2:#00835f;--c3:#8a4392;--c4:#96700a;--c5:#5a5f66;--c6:#b0234a;--c7:#2b7f8c}
@media (prefers-color-scheme:dark){:root{--paper:#15181c;--ink:#e6e9ec;--soft:#9aa5af;--rule:#2c333a;--c0:#5fb4ec;--c1:#f58f4c;--c2:#41cf9e;--c3:#d194dc;--c4:#dfbb3f;--c5:#aab2ba;--c6:#ff7f9d;--c7:#6cc9d6}}
@media print{:root{--paper:#fff;--ink:#000;--soft:#444;--rule:#ccc;--c0:#0067a8;--c1:#c9520a;--c2:#00835f;--c3:#8a4392;--c4:#96700a;--c5:#5a5f66;--c6:#b0234a;--c7:#2b7f8c}}
svg text{font:11px system-ui,"Liberation Sans",sans-serif;fill:var(--ink)}
svg .head{font-size:16px;font-weight:600}svg .title{font-size:12.5px;font-weight:600}
svg .tick{font-size:10.5px;fill:var(--soft)}svg .end{text-anchor:end}svg .mid{text-anchor:middle}
svg .grid{stroke:var(--rule)}svg .paper{fill:var(--paper)}
svg .line{fill:none;stroke-width:1.5;stroke-linecap:round;stroke-linejoin:round}svg .band{stroke:none;opacity:.22}
svg .line.c0{stroke:var(--c0)}svg .line.c1{stroke:var(--c1)}svg .line.c2{stroke:var(--c2)}svg .line.c3{stroke:var(--c3)}svg .line.c4{stroke:var(--c4)}svg .line.c5{stroke:var(--c5)}svg .line.c6{stroke:var(--c6)}svg .line.c7{stroke:var(--c7)}
svg .label,svg .bar{stroke:none}svg .label{font-weight:600}
svg .c0{fill:var(--c0)}svg .c1{fill:var(--c1)}svg .c2{fill:var(--c2)}svg .c3{fill:var(--c3)}svg .c4{fill:var(--c4)}svg .c5{fill:var(--c5)}svg .c6{fill:var(--c6)}svg .c7{fill:var(--c7)}svg path.line{fill:none}
)";
}

std::string line_chart(const Panel& panel) {
  const std::string inside = PanelDrawing(panel).draw();
  if (inside.empty()) return "";
  return cat("<svg class=\"chart\" role=\"img\" aria-label=\"", escape_markup(panel.title),
             "\" viewBox=\"0 0 ", kWidth, " ", kHeight, "\">\n", inside, "</svg>\n");
}

std::string draw_panels(const std::string& title, const std::vector<Panel>& panels) {
  std::string body;
  int drawn = 0;
  for (const Panel& panel : panels) {
    const std::string inside = PanelDrawing(panel).draw();
    if (inside.empty()) continue;
    body += cat("<g transform=\"translate(", drawn % 2 * kWidth, " ", 36 + drawn / 2 * kHeight, ")\">\n",
                inside, "</g>\n");
    drawn++;
  }
  const double width = 2 * kWidth, height = 36 + (drawn + 1) / 2 * kHeight;
  return cat("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", width, " ", height, "\" width=\"",
             width, "\" height=\"", height, "\">\n<style>\n", chart_style(),
             "</style>\n<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n<text class=\"head\" "
             "x=\"20\" y=\"24\">",
             escape_markup(title), "</text>\n", body, "</svg>\n");
}

}  // namespace jambalaya
