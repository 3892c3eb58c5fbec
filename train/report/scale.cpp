#include "train/report/scale.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace jambalaya {

void Range::widen() {
  if (low != high) return;
  const double around = std::abs(low) * 0.1 + 1e-12;
  low -= around, high += around;
}

void Range::pad(double share) {
  const double more = share * (high - low);
  low -= more, high += more;
}

std::vector<double> round_ticks(const Range& r, int n) {
  const double raw = (r.high - r.low) / n, power = std::pow(10, std::floor(std::log10(raw)));
  double step = power;
  for (double f : {2.0, 5.0, 10.0})
    if (0.75 * raw > step) step = f * power;
  std::vector<double> at;
  const double first = std::ceil(r.low / step - 1e-9);
  for (int i = 0; (first + i) * step <= r.high + step * 1e-9 && i <= 4 * n; i++)
    at.push_back(first + i == 0 ? 0 : (first + i) * step);
  return at;
}

std::vector<double> log_ticks(const Range& exponents, int n) {
  const double decades = exponents.high - exponents.low;
  std::vector<double> at;
  const int every = std::max(1, int(std::ceil(decades / n)));
  for (double p = std::ceil(exponents.low); p <= exponents.high + 1e-9; p += every)
    for (double f : {1.0, 2.0, 5.0})
      if ((f == 1 || decades < n / 2.0) && p + std::log10(f) <= exponents.high + 1e-9)
        at.push_back(f * std::pow(10, p));
  if (decades < n / 2.0)  // those of the decade that begins below the range
    for (double f : {5.0, 2.0})
      if (const double p = std::ceil(exponents.low) - 1; p + std::log10(f) >= exponents.low - 1e-9)
        at.insert(at.begin(), f * std::pow(10, p));
  if (at.size() >= 2) return at;
  return round_ticks({std::pow(10, exponents.low), std::pow(10, exponents.high)}, n);
}

std::string short_text(double v) {
  char text[32];
  const double a = std::abs(v);
  if (a != 0 && a < 1e-3) {  // "2.50e-04" has zeros too many
    std::snprintf(text, sizeof text, "%.2e", v);
    std::string s = text;
    const size_t e = s.find('e');
    const size_t digits = s.find_last_not_of("0", e - 1);
    return s.substr(0, s[digits] == '.' ? digits : digits + 1) + "e-" +
           std::to_string(std::stoi(s.substr(e + 2)));
  }
  static const char* const suffix[] = {"", "k", "M", "G", "T", "P"};
  int i = 0;
  for (double rest = a; rest >= (i ? 1000 : 10000) && i < 5; rest /= 1000) i++;
  const double scaled = v / std::pow(1000, i);
  std::snprintf(text, sizeof text, i == 0 && a >= 1000 ? "%.0f" : "%.4g", scaled);
  return std::string(text) + suffix[i];
}

std::string coordinate(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", v);
  const std::string s = text;
  return s.ends_with(".0") ? s.substr(0, s.size() - 2) : s;
}

std::string escape_markup(const std::string& s) {
  std::string out;
  for (char c : s) switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t')
          out += "\xEF\xBF\xBD";
        else
          out += c;
    }
  return out;
}

}  // namespace jambalaya
