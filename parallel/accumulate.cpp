#include "parallel/accumulate.h"

#include <algorithm>

namespace jambalaya {

namespace {

constexpr int64_t kBlock = 512;  // elements whose running sum stays in the first-level cache

template <class T>
T widened(T x) {
  return x;
}
float widened(bf16 x) { return to_float(x); }
template <class T>
void narrow(T x, T& out) {
  out = x;
}
void narrow(float x, bf16& out) { out = to_bf16(x); }

template <class Sum, class T>
void add_block(Reduce op, const T* in, Sum* sum, int64_t n) {
  switch (op) {
    case Reduce::sum:
      for (int64_t i = 0; i < n; i++) sum[i] = Sum(sum[i] + widened(in[i]));
      break;
    case Reduce::max:
      for (int64_t i = 0; i < n; i++) sum[i] = std::max<Sum>(sum[i], widened(in[i]));
      break;
    case Reduce::min:
      for (int64_t i = 0; i < n; i++) sum[i] = std::min<Sum>(sum[i], widened(in[i]));
      break;
  }
}

template <class Sum, class T>
void accumulate(Reduce op, const std::vector<const void*>& parts, T* out, int64_t n) {
  Sum sum[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = std::min(kBlock, n - begin);
    const T* first = static_cast<const T*>(parts[0]) + begin;
    for (int64_t i = 0; i < count; i++) sum[i] = widened(first[i]);
    for (size_t r = 1; r < parts.size(); r++)
      add_block(op, static_cast<const T*>(parts[r]) + begin, sum, count);
    for (int64_t i = 0; i < count; i++) narrow(sum[i], out[begin + i]);
  }
}

}  // namespace

void accumulate(DType dtype, Reduce op, const std::vector<const void*>& parts, void* out, int64_t n) {
  switch (dtype) {
    case DType::f32:
      return accumulate<float>(op, parts, static_cast<float*>(out), n);
    case DType::bf16:
      return accumulate<float>(op, parts, static_cast<bf16*>(out), n);
    case DType::f64:
      return accumulate<double>(op, parts, static_cast<double*>(out), n);
    case DType::i32:
      return accumulate<int32_t>(op, parts, static_cast<int32_t*>(out), n);
    case DType::i64:
      return accumulate<int64_t>(op, parts, static_cast<int64_t*>(out), n);
    case DType::u8:
      return accumulate<uint8_t>(op, parts, static_cast<uint8_t*>(out), n);
    case DType::u16:
      break;
  }
  JAMBALAYA_CHECK(false, "no sums of ", name_of(dtype));
}

}  // namespace jambalaya
