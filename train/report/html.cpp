#include "train/report/html.h"

#include <cmath>
#include <cstdio>
#include <ctime>

#include "kernels/error.h"
#include "train/report/chart.h"
#include "train/report/heat_map.h"
#include "train/report/scale.h"

namespace jambalaya {

namespace {

const char* const kPageStyle = R"(:root{color-scheme:light dark}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem 1.25rem 3rem;max-width:62rem;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,"Liberation Sans",sans-serif}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem;border-bottom:1px solid var(--rule);padding-bottom:.25rem}h3{font-size:1rem;margin:1.2rem 0 .3rem}
p{margin:.3rem 0}.soft{color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:.6rem;margin:1.1rem 0}
.tile{border:1px solid var(--rule);border-radius:.4rem;padding:.5rem .7rem}.tile b{display:block;font-size:1.2rem;font-weight:600}.tile span{color:var(--soft);font-size:.82rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr));gap:1rem}
svg.chart{display:block;width:100%;height:auto}svg.wide{margin:.4rem 0 1.2rem}svg.swatch{width:.8em;height:.8em;margin-right:.5em}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.86rem;margin:.4rem 0}th,td{text-align:left;vertical-align:top;padding:.22rem .9rem .22rem 0;border-bottom:1px solid var(--rule)}
th{font-weight:600;color:var(--soft)}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}td.text{white-space:pre-wrap;overflow-wrap:anywhere}
.facts td:first-child{color:var(--soft);white-space:nowrap}
pre{font:12px/1.45 ui-monospace,"DejaVu Sans Mono",monospace;columns:24rem;column-gap:2rem;white-space:pre-wrap;overflow-wrap:anywhere;margin:.4rem 0}
pre b{color:var(--c0)}
@media print{@page{margin:14mm}html{font-size:11px}body{max-width:none;padding:0;font-size:11px}.scroll{overflow:visible}.charts{grid-template-columns:1fr 1fr}.tiles{grid-template-columns:repeat(5,1fr)}h2{break-after:avoid}svg.chart,.tile,tr{break-inside:avoid}*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
)";

std::string row_of(const std::vector<std::string>& cells, const std::vector<bool>& numbers, const char* tag) {
  std::string s = "<tr>";
  for (size_t i = 0; i < cells.size(); i++)
    s += cat("<", tag, numbers[i] ? " class=\"n\">" : ">", escape_markup(cells[i]), "</", tag, ">");
  return s + "</tr>\n";
}

}  // namespace

std::string html_page(const std::string& title, const std::string& body) {
  return cat(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
      "img-src data:\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"referrer\" content=\"no-referrer\">\n<title>",
      escape_markup(title), "</title>\n<style>\n", chart_style(), heat_map_style(), kPageStyle,
      "</style>\n</head>\n<body>\n", body, "</body>\n</html>\n");
}

std::string html_table(const std::vector<std::string>& headers,
                       const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::string> names;
  std::vector<bool> numbers;
  for (const std::string& header : headers) {
    numbers.push_back(header.starts_with('#'));
    names.push_back(numbers.back() ? header.substr(1) : header);
  }
  std::string s =
      "<div class=\"scroll\"><table>\n<thead>" + row_of(names, numbers, "th") + "</thead>\n<tbody>\n";
  for (const auto& row : rows) s += row_of(row, numbers, "td");
  return s + "</tbody></table></div>\n";
}

std::string html_facts(const std::vector<std::pair<std::string, std::string>>& facts) {
  std::string s = "<table class=\"facts\"><tbody>\n";
  for (const auto& [name, value] : facts)
    if (!value.empty())
      s += cat("<tr><td>", escape_markup(name), "</td><td>", escape_markup(value), "</td></tr>\n");
  return s + "</tbody></table>\n";
}

std::string duration_text(double seconds) {
  char text[48];
  const long s = std::lround(seconds);
  if (seconds < 0.01) return seconds > 0 ? "< 0.01 s" : "0 s";
  if (seconds < 99.95)
    std::snprintf(text, sizeof text, seconds < 9.95 ? "%.2g s" : "%.1f s", seconds);
  else if (s < 3600)
    std::snprintf(text, sizeof text, "%ld min %02ld s", s / 60, s % 60);
  else
    std::snprintf(text, sizeof text, "%ld h %02ld min", s / 3600, s / 60 % 60);
  return text;
}

std::string time_text(double seconds_since_1970) {
  if (!(seconds_since_1970 > 0) || seconds_since_1970 > 1e11) return "";
  const auto time = std::time_t(seconds_since_1970);
  std::tm parts{};
  gmtime_r(&time, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", &parts);
  return text;
}

std::string percent_text(double share) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %%", 100 * share);
  return text;
}

std::string shortened(const std::string& text, size_t bytes) {
  if (text.size() <= bytes) return text;
  size_t end = bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) end--;
  return text.substr(0, end) + "…";
}

}  // namespace jambalaya
