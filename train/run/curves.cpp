#include "train/run/curves.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>
#include <map>

#include "train/files.h"
#include "train/json.h"

namespace jambalaya {

namespace {

constexpr double kWidth = 440, kHeight = 230, kLeft = 58, kRight = 14, kTop = 34, kBottom = 34;
const char* const kColors[] = {"#1f6fb4", "#d9622b", "#2f9e63", "#8a4fb5", "#b3264f", "#7a6a1d"};

std::string number(double v) {
  char text[32];
  double a = std::abs(v);
  std::snprintf(text, sizeof text,
                a != 0 && (a < 1e-2 || a >= 1e5) ? "%.1e"
                : a >= 100                       ? "%.0f"
                : a >= 1                         ? "%.3g"
                                                 : "%.2g",
                v);
  return text;
}

std::string coordinate(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", v);
  return text;
}

std::string escaped(const std::string& s) {
  std::string out;
  for (char c : s) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : std::string(1, c);
  return out;
}

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  void include(double v) {
    low = std::min(low, v);
    high = std::max(high, v);
  }
  bool empty() const { return !(low <= high); }
  void widen() {
    if (low == high) low -= std::abs(low) * 0.1 + 1e-12, high += std::abs(high) * 0.1 + 1e-12;
  }
};

/// Round numbers that divide the range into about n parts.
std::vector<double> ticks(const Range& r, int n) {
  double raw = (r.high - r.low) / n, power = std::pow(10, std::floor(std::log10(raw))), step = power;
  for (double f : {2.0, 5.0, 10.0})
    if (raw > step) step = f * power;
  std::vector<double> at;
  for (double v = std::ceil(r.low / step) * step; v <= r.high + step * 1e-9; v += step)
    at.push_back(std::abs(v) < step * 1e-9 ? 0 : v);
  return at;
}

class PanelDrawing {
 public:
  PanelDrawing(const Panel& panel, double x, double y) : panel_(panel), x_(x), y_(y) {
    for (const Curve& c : panel.curves)
      for (auto [step, value] : c.points)
        if (drawable(value)) {
          steps_.include(step);
          values_.include(scaled(value));
        }
  }
  std::string draw() {
    if (steps_.empty()) return "";
    steps_.widen();
    values_.widen();
    std::string s =
        cat("<g transform=\"translate(", coordinate(x_), " ", coordinate(y_),
            ")\">\n<text class=\"title\" x=\"", coordinate(kLeft), "\" y=\"18\">", escaped(panel_.title),
            panel_.unit.empty() ? "" : " (" + escaped(panel_.unit) + ")", "</text>\n");
    s += axes();
    for (size_t i = 0; i < panel_.curves.size(); i++)
      s += line(panel_.curves[i], kColors[i % std::size(kColors)], i);
    return s + "</g>\n";
  }

 private:
  bool drawable(double v) const { return std::isfinite(v) && (!panel_.log_scale || v > 0); }
  double scaled(double v) const { return panel_.log_scale ? std::log10(v) : v; }
  double at_x(double step) const {
    return kLeft + (step - steps_.low) / (steps_.high - steps_.low) * (kWidth - kLeft - kRight);
  }
  double at_y(double v) const {
    return kHeight - kBottom - (v - values_.low) / (values_.high - values_.low) * (kHeight - kTop - kBottom);
  }

  std::string axes() const {
    std::string s;
    for (double v : ticks(values_, 4)) {
      std::string y = coordinate(at_y(v));
      s += cat("<line class=\"grid\" x1=\"", coordinate(kLeft), "\" x2=\"", coordinate(kWidth - kRight),
               "\" y1=\"", y, "\" y2=\"", y, "\"/>", "<text class=\"tick\" text-anchor=\"end\" x=\"",
               coordinate(kLeft - 5), "\" y=\"", coordinate(at_y(v) + 3.5), "\">",
               number(panel_.log_scale ? std::pow(10, v) : v), "</text>\n");
    }
    for (double v : ticks(steps_, 5))
      s += cat("<text class=\"tick\" text-anchor=\"middle\" x=\"", coordinate(at_x(v)), "\" y=\"",
               coordinate(kHeight - kBottom + 15), "\">", number(v), "</text>\n");
    return s + cat("<text class=\"tick\" text-anchor=\"end\" x=\"", coordinate(kWidth - kRight), "\" y=\"",
                   coordinate(kHeight - 5), "\">step</text>\n");
  }

  std::string line(const Curve& curve, const char* color, size_t index) const {
    std::string path, point;
    int run = 0;  // points of the stretch without a gap
    // A point without neighbours becomes a line of no length, which round caps show as a dot.
    const auto end_run = [&] {
      if (run == 1) path += "L" + point;
      run = 0;
    };
    for (auto [step, value] : curve.points) {
      if (!drawable(value)) {
        end_run();
        continue;
      }
      point = cat(coordinate(at_x(step)), " ", coordinate(at_y(scaled(value))));
      path += (run++ ? "L" : "M") + point;
    }
    end_run();
    if (path.empty()) return "";
    std::string s = cat("<path fill=\"none\" stroke-linecap=\"round\" stroke=\"", color,
                        "\" stroke-width=\"1.5\" d=\"", path, "\"/>\n");
    if (!curve.label.empty())
      s += cat("<text class=\"tick\" fill=\"", color, "\" text-anchor=\"end\" x=\"",
               coordinate(kWidth - kRight), "\" y=\"", coordinate(kTop + 12 * double(index) + 4), "\">",
               escaped(curve.label), "</text>\n");
    return s;
  }

  const Panel& panel_;
  double x_, y_;
  Range steps_, values_;
};

std::vector<Curve> one(std::vector<std::pair<double, double>> points, std::string label = "") {
  return {{std::move(label), std::move(points)}};
}

}  // namespace

std::string draw_panels(const std::string& title, const std::vector<Panel>& panels) {
  std::string body;
  int drawn = 0;
  for (const Panel& panel : panels) {
    std::string s = PanelDrawing(panel, (drawn % 2) * kWidth, 36 + (drawn / 2) * kHeight).draw();
    body += s;
    drawn += !s.empty();
  }
  const double height = 36 + (drawn + 1) / 2 * kHeight;
  return cat("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", coordinate(2 * kWidth), " ",
             coordinate(height), "\" width=\"", coordinate(2 * kWidth), "\" height=\"", coordinate(height),
             "\">\n<style>text{font-family:sans-serif;fill:#333}.head{font-size:16px;font-weight:bold}.title{"
             "font-size:13px;font-weight:bold}"
             ".tick{font-size:10px}.grid{stroke:#ddd}</style>\n<rect width=\"100%\" height=\"100%\" "
             "fill=\"white\"/>\n<text class=\"head\" x=\"20\" y=\"24\">",
             escaped(title), "</text>\n", body, "</svg>\n");
}

void write_run_curves(const std::string& folder, const std::string& title) {
  std::ifstream file(folder + "/metrics.jsonl");
  std::map<std::string, std::vector<std::pair<double, double>>> points;
  std::string text;
  for (int line = 1; std::getline(file, text); line++) {
    Json json = parse_json(text, cat(folder, "/metrics.jsonl:", line));
    double step = JsonReader(json, "metrics", Exit::bad_input).number("step");
    for (const char* key : {"loss", "aux_loss", "grad_norm", "lr", "tokens_per_s", "held_out_bits_per_byte",
                            "max_expert_load"}) {
      const Json* value = json.find(key);
      if (const Json* timing = json.find("timing"); !value && timing) value = timing->find(key);
      if (!value) continue;
      // "nan" and "inf" are strings in JSON: they stay as gaps.
      const bool finite = value->is(Json::Kind::number) || value->is(Json::Kind::integer);
      points[key].emplace_back(step, finite ? value->number : std::numeric_limits<double>::quiet_NaN());
    }
  }
  replace_file(
      folder + "/curves.svg",
      draw_panels(title, {{"training loss", "nats per token", one(points["loss"]), false},
                          {"held-out", "bits per byte", one(points["held_out_bits_per_byte"]), false},
                          {"gradient norm", "", one(points["grad_norm"]), true},
                          {"learning rate", "", one(points["lr"]), false},
                          {"speed", "tokens per second", one(points["tokens_per_s"]), false},
                          {"experts: largest share of an expert, times their number", "1 = balanced",
                           one(points["max_expert_load"]), false}}));
}

}  // namespace jambalaya
