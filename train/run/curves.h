// The picture of a run: panels of curves as one SVG file, drawn from metrics.jsonl.
#pragma once
#include <string>
#include <utility>
#include <vector>

namespace jambalaya {

struct Curve {
  std::string label;
  std::vector<std::pair<double, double>> points;  ///< (step, value); not-finite values leave a gap
};

struct Panel {
  std::string title, unit;
  std::vector<Curve> curves;
  bool log_scale = false;  ///< vertical axis; needs positive values
};

/// Panels two abreast. Empty curves and panels are left out.
std::string draw_panels(const std::string& title, const std::vector<Panel>& panels);

/// Reads a run folder's metrics.jsonl and writes curves.svg beside it.
void write_run_curves(const std::string& folder, const std::string& title);

}  // namespace jambalaya
