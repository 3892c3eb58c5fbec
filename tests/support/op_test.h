// Shared by tests of ops: tensors that own guarded memory, contexts, random and poisoned contents, error
// measures.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/ops.h"
#include "kernels/philox.h"
#include "tests/support/device.h"

namespace jambalaya::test {

/// A tensor with memory of its own. Guard bytes lie before and after it and, with row_stride > columns,
/// between its rows: guards_intact() tells whether an op wrote outside of it. Starts poisoned (NaN, or -1 for
/// whole numbers).
class Owned {
 public:
  Owned() = default;  ///< empty: null data, for optional tensors
  Owned(DType dtype, std::initializer_list<int64_t> shape, int64_t row_stride = 0) {
    view_ = make_tensor(nullptr, dtype, shape);
    if (row_stride) view_.row_stride = row_stride;
    int64_t elements = view_.rows() ? (view_.rows() - 1) * view_.row_stride + view_.columns() : 0;
    span_ = size_t(elements * size_of(dtype));
    memory_.assign(span_ + 2 * kGuard + 64, kGuardByte);
    auto at = reinterpret_cast<uintptr_t>(memory_.data()) + kGuard;
    offset_ = size_t((at + 63) / 64 * 64 - reinterpret_cast<uintptr_t>(memory_.data()));
    rebind();
    poison();
  }
  Owned(const Owned& o) : memory_(o.memory_), view_(o.view_), offset_(o.offset_), span_(o.span_) {
    realign(o);
  }
  Owned& operator=(const Owned& o) {
    if (this == &o) return *this;
    memory_ = o.memory_, view_ = o.view_, offset_ = o.offset_, span_ = o.span_;
    realign(o);
    return *this;
  }
  Owned(Owned&& o) noexcept = default;
  Owned& operator=(Owned&& o) noexcept = default;

  operator const Tensor&() const { return view_; }
  const Tensor& tensor() const { return view_; }
  const Tensor* operator->() const { return &view_; }
  template <class T>
  T* ptr() const {
    return view_.ptr<T>();
  }

  double get(int64_t row, int64_t column) const {
    const void* p = view_.address(row * view_.row_stride + column);
    switch (view_.dtype) {
      case DType::f32:
        return double(*static_cast<const float*>(p));
      case DType::bf16:
        return double(to_float(*static_cast<const bf16*>(p)));
      case DType::f64:
        return *static_cast<const double*>(p);
      case DType::i32:
        return double(*static_cast<const int32_t*>(p));
      case DType::i64:
        return double(*static_cast<const int64_t*>(p));
      case DType::u16:
        return double(*static_cast<const uint16_t*>(p));
      case DType::u8:
        return double(*static_cast<const uint8_t*>(p));
    }
    return 0;
  }
  /// Rounds x to the tensor's dtype.
  void set(int64_t row, int64_t column, double x) {
    void* p = view_.address(row * view_.row_stride + column);
    switch (view_.dtype) {
      case DType::f32:
        *static_cast<float*>(p) = float(x);
        break;
      case DType::bf16:
        *static_cast<bf16*>(p) = to_bf16(float(x));
        break;
      case DType::f64:
        *static_cast<double*>(p) = x;
        break;
      case DType::i32:
        *static_cast<int32_t*>(p) = int32_t(x);
        break;
      case DType::i64:
        *static_cast<int64_t*>(p) = int64_t(x);
        break;
      case DType::u16:
        *static_cast<uint16_t*>(p) = uint16_t(x);
        break;
      case DType::u8:
        *static_cast<uint8_t*>(p) = uint8_t(x);
        break;
    }
  }
  /// Elements row by row, as doubles (exact for f32 and bf16): what a float64 reference reads.
  std::vector<double> values() const {
    std::vector<double> v;
    v.reserve(size_t(view_.numel()));
    for (int64_t i = 0; i < view_.rows(); i++)
      for (int64_t j = 0; j < view_.columns(); j++) v.push_back(get(i, j));
    return v;
  }
  Owned& assign(const std::vector<double>& v) {
    JAMBALAYA_CHECK(int64_t(v.size()) == view_.numel(), v.size(), " values for ", view_.describe());
    size_t at = 0;
    for (int64_t i = 0; i < view_.rows(); i++)
      for (int64_t j = 0; j < view_.columns(); j++) set(i, j, v[at++]);
    return *this;
  }
  Owned& fill(double x) { return assign(std::vector<double>(size_t(view_.numel()), x)); }
  /// NaN everywhere (-1, all bits set, for whole numbers): an element that an op forgets to write shows.
  Owned& poison() {
    bool real = view_.dtype == DType::f32 || view_.dtype == DType::bf16 || view_.dtype == DType::f64;
    if (real) return fill(std::numeric_limits<double>::quiet_NaN());
    for (int64_t i = 0; i < view_.rows(); i++)
      std::memset(view_.address(i * view_.row_stride), 0xff, size_t(view_.columns() * size_of(view_.dtype)));
    return *this;
  }
  /// Uniform in [low, high), rounded to the dtype; the same numbers for the same seed everywhere.
  Owned& uniform(uint64_t seed, double low = -1, double high = 1) {
    uint64_t key = hash_name(seed, "test"), index = 0;
    for (int64_t i = 0; i < view_.rows(); i++)
      for (int64_t j = 0; j < view_.columns(); j++)
        set(i, j, low + (high - low) * double(uniform_at(key, index++)));
    return *this;
  }
  /// The elements' bytes, for bitwise comparison.
  std::string bits() const {
    std::string s;
    for (int64_t i = 0; i < view_.rows(); i++)
      s.append(static_cast<const char*>(view_.address(i * view_.row_stride)),
               size_t(view_.columns() * size_of(view_.dtype)));
    return s;
  }
  /// True while nothing outside of the elements has been written.
  bool guards_intact() const {
    auto clean = [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; i++)
        if (memory_[i] != kGuardByte) return false;
      return true;
    };
    if (!clean(0, offset_) || !clean(offset_ + span_, memory_.size())) return false;
    auto size = size_t(size_of(view_.dtype));
    for (int64_t i = 0; i + 1 < view_.rows(); i++) {
      size_t row = offset_ + size_t(i * view_.row_stride) * size;
      if (!clean(row + size_t(view_.columns()) * size, row + size_t(view_.row_stride) * size)) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kGuard = 256;
  static constexpr char kGuardByte = char(0xa5);
  void rebind() { view_.data = memory_.data() + offset_; }
  void realign(const Owned& o) {  // a copy's block may start elsewhere modulo 64
    if (!o.view_.data) return;
    auto base = reinterpret_cast<uintptr_t>(memory_.data());
    size_t to = size_t((base + kGuard + 63) / 64 * 64 - base);
    std::vector<char> inside(memory_.begin() + int64_t(offset_), memory_.begin() + int64_t(offset_ + span_));
    std::fill(memory_.begin(), memory_.end(), kGuardByte);
    offset_ = to;
    if (span_) std::memcpy(memory_.data() + to, inside.data(), span_);
    rebind();
  }
  DeviceVector<char> memory_;
  Tensor view_;
  size_t offset_ = 0, span_ = 0;
};

/// Threads, scratch memory and the kernels of one instruction set ("" = the best of this machine), or of the
/// device under test.
struct TestContext {
  explicit TestContext(int threads = 1, const std::string& isa = "", int64_t scratch_bytes = int64_t(1) << 30)
      : on(threads, isa, scratch_bytes), context(on.context()), scratch(*context.scratch) {}
  operator Context&() { return context; }
  Ops* operator->() const { return context.ops; }
  OpContext on;
  Context& context;
  Arena& scratch;
};
inline std::unique_ptr<TestContext> make_context(int threads = 1, const std::string& isa = "") {
  return std::make_unique<TestContext>(threads, isa);
}

/// The instruction sets, of those that we compile for, that this machine has; {"cuda"} on a device.
inline std::vector<std::string> available_isas() {
  return isas_among({"avx2", "avx512", "avx512-bf16", "amx"});
}

/// |got - want| / |want| in the Euclidean norm (|got| where want is all zero). Infinite for NaN or unequal
/// lengths.
inline double relative_l2(const std::vector<double>& got, const std::vector<double>& want) {
  if (got.size() != want.size()) return std::numeric_limits<double>::infinity();
  double error = 0, norm = 0;
  for (size_t i = 0; i < want.size(); i++) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  double r = std::sqrt(norm > 0 ? error / norm : error);
  return std::isnan(r) ? std::numeric_limits<double>::infinity() : r;
}
inline double relative_l2(const Owned& got, const std::vector<double>& want) {
  return relative_l2(got.values(), want);
}

/// x rounded to bf16, element by element.
inline std::vector<double> rounded_to_bf16(std::vector<double> x) {
  for (double& v : x) v = double(to_float(to_bf16(float(v))));
  return x;
}

}  // namespace jambalaya::test
