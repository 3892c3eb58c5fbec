// A tensor is a light view: dtype, device, shape and row stride over memory that an arena owns.
#pragma once
#include <array>
#include <cstdint>
#include <cstring>
#include <string>

#include "kernels/error.h"

namespace jambalaya {

enum class DType : uint8_t { f32, bf16, f64, i32, i64, u16, u8 };
enum class Device : uint8_t { cpu, cuda };

/// Upper half of an IEEE binary32, rounded to nearest even. Storage only: arithmetic is done in fp32.
struct bf16 {
  uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) {
  uint32_t u = uint32_t(x.bits) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
inline bf16 to_bf16(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {uint16_t(u >> 16 | 0x40)};  // NaN stays NaN
  return {uint16_t((u + 0x7fffu + (u >> 16 & 1)) >> 16)};
}

constexpr int64_t size_of(DType t) {
  switch (t) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::u16:
      return 2;
    case DType::u8:
      return 1;
  }
  return 0;
}
const char* name_of(DType t);  ///< "f32", "bf16", ...

template <class T>
struct dtype_of;
template <>
struct dtype_of<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct dtype_of<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct dtype_of<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct dtype_of<int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct dtype_of<int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct dtype_of<uint16_t> {
  static constexpr DType value = DType::u16;
};
template <>
struct dtype_of<uint8_t> {
  static constexpr DType value = DType::u8;
};

/// Row-major view of up to four dimensions. All dimensions but the first are packed; rows (dimension 0)
/// may be further apart than their length, so that a range of columns of a matrix is a tensor too.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  Device device = Device::cpu;
  int rank = 0;
  std::array<int64_t, 4> shape{};
  int64_t row_stride = 0;  ///< elements from one row to the next

  explicit operator bool() const { return data != nullptr; }
  int64_t rows() const { return rank ? shape[0] : 1; }
  /// Elements of one row (the product of all dimensions but the first).
  int64_t columns() const {
    int64_t n = 1;
    for (int i = 1; i < rank; i++) n *= shape[size_t(i)];
    return n;
  }
  int64_t numel() const { return rows() * columns(); }
  int64_t bytes() const { return numel() * size_of(dtype); }
  bool packed() const { return row_stride == columns() || rows() <= 1; }

  /// Typed pointer; the dtype must match.
  template <class T>
  T* ptr() const {
    JAMBALAYA_CHECK(dtype == dtype_of<T>::value, "tensor is ", name_of(dtype));
    return static_cast<T*>(data);
  }
  void* address(int64_t element) const { return static_cast<char*>(data) + element * size_of(dtype); }

  /// Rows [begin, end).
  Tensor slice_rows(int64_t begin, int64_t end) const;
  /// Columns [begin, end) of a matrix: same rows, same stride.
  Tensor slice_columns(int64_t begin, int64_t end) const;
  /// Entry i of dimension 0, that dimension removed: [E, N, K] -> [N, K].
  Tensor at(int64_t i) const;
  std::string describe() const;  ///< "f32[128, 256]"
};

Tensor make_tensor(void* data, DType dtype, std::initializer_list<int64_t> shape,
                   Device device = Device::cpu);
template <class T>
Tensor make_tensor(T* data, std::initializer_list<int64_t> shape) {
  return make_tensor(const_cast<std::remove_const_t<T>*>(data), dtype_of<std::remove_const_t<T>>::value,
                     shape);
}

}  // namespace jambalaya
