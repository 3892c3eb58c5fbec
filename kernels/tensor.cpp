#include "kernels/tensor.h"

namespace jambalaya {

const char* name_of(DType t) {
  switch (t) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f64:
      return "f64";
    case DType::i32:
      return "i32";
    case DType::i64:
      return "i64";
    case DType::u16:
      return "u16";
    case DType::u8:
      return "u8";
  }
  return "?";
}

Tensor make_tensor(void* data, DType dtype, std::initializer_list<int64_t> shape, Device device) {
  JAMBALAYA_CHECK(shape.size() <= 4);
  Tensor t;
  t.data = data;
  t.dtype = dtype;
  t.device = device;
  for (int64_t n : shape) t.shape[size_t(t.rank++)] = n;
  t.row_stride = t.columns();
  return t;
}

Tensor Tensor::slice_rows(int64_t begin, int64_t end) const {
  JAMBALAYA_CHECK(rank >= 1 && 0 <= begin && begin <= end && end <= shape[0], "rows [", begin, ", ", end,
                  ") of ", describe());
  Tensor t = *this;
  t.data = address(begin * row_stride);
  t.shape[0] = end - begin;
  return t;
}

Tensor Tensor::slice_columns(int64_t begin, int64_t end) const {
  JAMBALAYA_CHECK(rank == 2 && 0 <= begin && begin <= end && end <= shape[1], "columns [", begin, ", ", end,
                  ") of ", describe());
  Tensor t = *this;
  t.data = address(begin);
  t.shape[1] = end - begin;
  return t;
}

Tensor Tensor::at(int64_t i) const {
  JAMBALAYA_CHECK(rank >= 1 && 0 <= i && i < shape[0], "entry ", i, " of ", describe());
  Tensor t = *this;
  t.data = address(i * row_stride);
  t.rank = rank - 1;
  for (int d = 0; d < t.rank; d++) t.shape[size_t(d)] = shape[size_t(d) + 1];
  t.shape[size_t(t.rank)] = 0;  // as in any tensor of that rank: shapes are compared whole
  t.row_stride = t.columns();
  return t;
}

std::string Tensor::describe() const {
  std::string s = cat(name_of(dtype), "[");
  for (int i = 0; i < rank; i++) s += cat(i ? ", " : "", shape[size_t(i)]);
  return s + (packed() ? "]" : "] (strided)");
}

}  // namespace jambalaya
