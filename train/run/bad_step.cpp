#include "train/run/bad_step.h"

#include <algorithm>
#include <cmath>

#include "kernels/error.h"

namespace jambalaya {

namespace {
double median(std::vector<double> v) {
  auto middle = v.begin() + long(v.size() / 2);
  std::nth_element(v.begin(), middle, v.end());
  return *middle;
}
}  // namespace

std::string BadStepDetector::judge(double loss, double gradient_norm) {
  if (!std::isfinite(loss)) return cat("the loss is ", loss);
  if (!std::isfinite(gradient_norm)) return cat("the gradient norm is ", gradient_norm);
  if (factor_ > 0 && window_.size() >= kWindow / 2) {  // half full: enough to know what is usual
    double usual = median(window_);
    std::vector<double> distance;
    for (double v : window_) distance.push_back(std::abs(v - usual));
    double mad = median(distance), limit = usual + factor_ * mad;
    if (loss > limit)
      return cat("the loss ", loss, " is above ", limit, " = median ", usual, " + ", factor_, " x MAD ", mad,
                 " of the last ", window_.size(), " steps");
  }
  window_.push_back(loss);
  if (window_.size() > kWindow) window_.erase(window_.begin());
  return "";
}

}  // namespace jambalaya
