// Axes: ranges, round numbers on them, and numbers as short text.
#pragma once
#include <limits>
#include <string>
#include <vector>

namespace jambalaya {

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  void include(double v) {
    low = v < low ? v : low;
    high = v > high ? v : high;
  }
  bool empty() const { return !(low <= high); }
  /// A range of one value gets a width.
  void widen();
  /// Adds `share` of the width on both sides.
  void pad(double share);
};

/// Round numbers that divide the range into about n parts.
std::vector<double> round_ticks(const Range& range, int n);
/// The same for a logarithmic axis from 10^low to 10^high: powers of ten where the range holds several, else
/// round numbers. Returned as they are, not as logarithms.
std::vector<double> log_ticks(const Range& exponents, int n);

/// "0.35", "12.5k", "3e-4"
std::string short_text(double v);
/// For SVG: one digit behind the point.
std::string coordinate(double v);
/// For the text and the double-quoted attributes of HTML, XML and SVG. Control characters, which these cannot
/// hold, become U+FFFD.
std::string escape_markup(const std::string& text);

}  // namespace jambalaya
