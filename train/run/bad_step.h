// Notices steps that would harm a run: a loss or gradient that is no number, or a loss far above the recent
// ones.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace jambalaya {

class BadStepDetector {
 public:
  static constexpr size_t kWindow = 128;
  /// spike_factor: loss above median + factor * MAD of the window is a spike; 0: only NaN and infinity count.
  explicit BadStepDetector(double spike_factor) : factor_(spike_factor) {}

  /// Why this step is bad, "" when it is not. Good losses enter the window.
  std::string judge(double loss, double gradient_norm);
  const std::vector<double>& window() const { return window_; }
  void restore(std::vector<double> window) { window_ = std::move(window); }

 private:
  double factor_;
  std::vector<double> window_;  ///< oldest first
};

}  // namespace jambalaya
