// Values over two axes as colours, as SVG text.
#pragma once
#include <string>
#include <vector>

namespace jambalaya {

struct HeatMap {
  std::string title, unit;
  std::string x_label = "step", y_label = "layer";
  std::vector<double> columns;              ///< what stands below them
  std::vector<std::string> rows;            ///< names, from the top
  std::vector<std::vector<double>> values;  ///< [row][column]; not-finite values stay empty
  bool log_scale = false;                   ///< of the colours; needs positive values
};

/// An <svg> element for a page that has heat_map_style(); "" when there is nothing to draw.
std::string heat_map(const HeatMap& map);
std::string heat_map_style();

/// Of neighbouring columns the largest (or smallest) value, so that at most `columns` are left.
enum class Keep { largest, smallest };
void merge_columns(HeatMap& map, size_t columns, Keep keep);

}  // namespace jambalaya
