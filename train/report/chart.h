// Charts as SVG text. Colours are those of chart_style(), so that a page or a picture can be light, dark or
// printed; nothing here knows what a run is.
#pragma once
#include <string>
#include <utility>
#include <vector>

namespace jambalaya {

struct Curve {
  std::string label;
  std::vector<std::pair<double, double>> points;  ///< (x, value), x growing; not-finite values leave a gap
};

/// Curves over a common axis. Of many points neighbours are drawn together: their mean as a line, their range
/// as a band.
struct Panel {
  std::string title, unit;
  std::vector<Curve> curves;
  bool log_scale = false;  ///< vertical axis; needs positive values
  bool from_zero = false;  ///< the axis includes 0
  std::string x_label = "step";
};

/// Rules for all charts, to stand in a <style>; the first line defines the colours.
std::string chart_style();
/// A panel as an <svg> element for a page; "" when there is nothing to draw.
std::string line_chart(const Panel& panel);
/// Panels two abreast as an SVG file. Empty curves and panels are left out.
std::string draw_panels(const std::string& title, const std::vector<Panel>& panels);

}  // namespace jambalaya
