// What the tests of the small rooms share: tensors that own their memory, a context with n threads, errors.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "tests/support/device.h"

namespace jambalaya::test {

using Values = std::vector<double>;

inline std::vector<std::string> isas_of_this_machine() {
  return isas_among({"avx2", "avx512", "avx512-bf16"});
}

/// A backend of one instruction set, or of a device, with its threads and scratch memory.
class Backend {
 public:
  explicit Backend(const std::string& isa, int threads = 1) : on_(threads, isa, int64_t(1) << 30) {}
  Ops* operator->() { return on_.context().ops; }
  operator Context&() { return on_.context(); }

 private:
  OpContext on_;
};

inline double read(const Tensor& t, int64_t i) {
  switch (t.dtype) {
    case DType::f32:
      return t.ptr<float>()[i];
    case DType::bf16:
      return to_float(t.ptr<bf16>()[i]);
    case DType::f64:
      return t.ptr<double>()[i];
    case DType::i32:
      return t.ptr<int32_t>()[i];
    default:
      throw std::logic_error("dtype of no test");
  }
}
inline void write(const Tensor& t, int64_t i, double value) {
  switch (t.dtype) {
    case DType::f32:
      t.ptr<float>()[i] = float(value);
      break;
    case DType::bf16:
      t.ptr<bf16>()[i] = to_bf16(float(value));
      break;
    case DType::f64:
      t.ptr<double>()[i] = value;
      break;
    case DType::i32:
      t.ptr<int32_t>()[i] = int32_t(value);
      break;
    default:
      throw std::logic_error("dtype of no test");
  }
}

/// A tensor and its memory. `gap` elements lie between rows; they hold a pattern that nobody may touch.
/// Without values it is poisoned (NaN, or -99 for integers), so that an element never written shows.
class Owned {
 public:
  Owned(DType dtype, std::initializer_list<int64_t> shape, int64_t gap = 0) {
    tensor_ = make_tensor(nullptr, dtype, shape);
    tensor_.row_stride += gap;
    size_ = tensor_.rows() * tensor_.row_stride;
    memory_.resize(size_t(size_ * size_of(dtype)));  // exactly: AddressSanitizer sees a read past the end
    tensor_.data = memory_.data();
    double poison = dtype == DType::i32 ? -99 : std::numeric_limits<double>::quiet_NaN();
    for (int64_t i = 0; i < size_; i++) write(tensor_, i, kGap);
    fill(poison);
  }
  Owned(DType dtype, std::initializer_list<int64_t> shape, const Values& values, int64_t gap = 0)
      : Owned(dtype, shape, gap) {
    EXPECT_EQ(int64_t(values.size()), tensor_.numel());
    for (int64_t i = 0; i < tensor_.numel(); i++) write(tensor_, place(i), values[size_t(i)]);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;

  operator const Tensor&() const { return tensor_; }
  void fill(double value) {
    for (int64_t i = 0; i < tensor_.numel(); i++) write(tensor_, place(i), value);
  }
  /// The elements as stored (rounded to the dtype).
  Values values() const {
    Values v(size_t(tensor_.numel()));
    for (int64_t i = 0; i < tensor_.numel(); i++) v[size_t(i)] = read(tensor_, place(i));
    return v;
  }
  bool gaps_untouched() const {
    for (int64_t i = 0; i < size_; i++) {
      if (i % tensor_.row_stride >= tensor_.columns() && read(tensor_, i) != kGap) return false;
    }
    return true;
  }
  std::vector<char> bytes() const { return {memory_.begin(), memory_.end()}; }

 private:
  static constexpr double kGap = 77;
  int64_t place(int64_t i) const {
    return i / tensor_.columns() * tensor_.row_stride + i % tensor_.columns();
  }
  Tensor tensor_;
  int64_t size_ = 0;
  DeviceVector<char> memory_;
};

inline Values normal(int64_t n, uint64_t seed, double scale = 1) {
  std::mt19937_64 bits(seed);
  std::normal_distribution<double> draw(0, scale);
  Values v(static_cast<size_t>(n));
  for (double& x : v) x = draw(bits);
  return v;
}

/// |got - want| / |want| in the Euclidean norm. NaN in either is an infinite error.
inline double relative_l2(const Values& got, const Values& want) {
  if (got.size() != want.size()) return std::numeric_limits<double>::infinity();
  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size(); i++) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  double e = std::sqrt(error / (norm > 0 ? norm : 1));
  return std::isnan(e) ? std::numeric_limits<double>::infinity() : e;
}

/// Checks `gradient` of f at x against central differences.
template <class F>
void expect_central_differences(F&& f, Values x, const Values& gradient, const char* name) {
  Values numeric(x.size());
  for (size_t i = 0; i < x.size(); i++) {
    const double here = x[i], h = 1e-5;
    x[i] = here + h;
    double up = f(x);
    x[i] = here - h;
    double down = f(x);
    x[i] = here;
    numeric[i] = (up - down) / (2 * h);
  }
  EXPECT_LT(relative_l2(gradient, numeric), 1e-6) << name;
}

inline double tolerance(DType t, double bf16_tolerance) { return t == DType::bf16 ? bf16_tolerance : 2e-6; }

}  // namespace jambalaya::test
