// Shape checks that ops of both backends share (op_checks.h). A wrong shape is a bug of the caller's, so
// these are internal checks.
#pragma once
#include <initializer_list>

#include "kernels/tensor.h"

namespace jambalaya {

/// 0 for f32, 1 for bf16: the index into a kernel table. Any other dtype fails.
inline int act_kind(const Tensor& t) {
  JAMBALAYA_CHECK(t.dtype == DType::f32 || t.dtype == DType::bf16, "activation tensor is ", t.describe());
  return t.dtype == DType::bf16;
}

/// The tensor has this shape; its rows may be further apart than their length.
inline void check_shape(const Tensor& t, std::initializer_list<int64_t> shape, const char* name) {
  bool same = t.rank == int(shape.size());
  int i = 0;
  for (int64_t n : shape) same = same && t.shape[size_t(i++)] == n;
  JAMBALAYA_CHECK(same, name, " has the wrong shape: ", t.describe());
}

/// As check_shape, of the act dtype (f32 or bf16) that the op's activations share.
inline void check_activation(const Tensor& t, DType act, std::initializer_list<int64_t> shape,
                             const char* name) {
  check_shape(t, shape, name);
  act_kind(t);
  JAMBALAYA_CHECK(t.dtype == act, name, " is ", t.describe(), " among activations of ", name_of(act));
}

/// As check_shape, of this dtype and without gaps between rows.
inline void check_packed(const Tensor& t, DType dtype, std::initializer_list<int64_t> shape,
                         const char* name) {
  check_shape(t, shape, name);
  JAMBALAYA_CHECK(t.dtype == dtype && t.packed(), name, " must be packed ", name_of(dtype), ", is ",
                  t.describe());
}

}  // namespace jambalaya
