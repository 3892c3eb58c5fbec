#include "kernels/check.h"
#include "kernels/op_checks.h"

namespace jambalaya {
namespace {

/// Entries of a carried state: see "Carried state" in kernels/ops_state_space.h.
template <class Op>
int64_t entries(const Op& op) {
  return op.ends_only ? 1 : op.docs.count;
}

/// What both directions of the convolution read.
template <class Op>
void check_conv(const Op& op) {
  JAMBALAYA_CHECK(op.w.rank == 2 && op.w.columns() >= 1, "w ", op.w.describe());
  const int64_t E = op.w.rows(), W = op.w.columns();
  check_packed(op.w, DType::f32, {E, W}, "w");
  if (op.bias) check_packed(op.bias, DType::f32, {E}, "bias");
  check_activation(op.x, op.x.dtype, {op.docs.tokens, E}, "x");
  if (op.left) check_packed(op.left, DType::f32, {entries(op), W - 1, E}, "left");
}

/// What all ops of the scan read: the step's raw size, and the parameters behind the decay.
template <class Op>
void check_decay(const Op& op) {
  const int64_t E = op.a_log.rows(), N = op.a_log.columns();
  check_packed(op.a_log, DType::f32, {E, N}, "a_log");
  check_activation(op.s, op.s.dtype, {op.docs.tokens, E}, "s");
  check_packed(op.dt_bias, DType::f32, {E}, "dt_bias");
}

/// f32 [T, N]: B or C, or a gradient of theirs.
template <class Op>
void check_per_state(const Op& op, const Tensor& t, const char* name) {
  check_activation(t, DType::f32, {op.docs.tokens, op.a_log.columns()}, name);
}

/// What both directions of the scan read.
template <class Op>
void check_scan(const Op& op) {
  check_decay(op);
  const int64_t T = op.docs.tokens, E = op.a_log.rows(), N = op.a_log.columns();
  check_activation(op.u, op.s.dtype, {T, E}, "u");
  if (op.z) check_activation(op.z, op.s.dtype, {T, E}, "z");
  check_per_state(op, op.b, "b");
  check_per_state(op, op.c, "c");
  check_packed(op.d, DType::f32, {E}, "d");
  if (op.h0) check_packed(op.h0, DType::f32, {entries(op), N, E}, "h0");
}

/// A gradient of activations that may be f32 among bf16 ones.
void check_gradient(const Tensor& t, DType act, std::initializer_list<int64_t> shape, const char* name) {
  check_activation(t, t.dtype == DType::f32 ? DType::f32 : act, shape, name);
}

}  // namespace

void check_op(const ConvForward& op) {
  check_conv(op);
  const int64_t E = op.w.rows(), W = op.w.columns();
  check_activation(op.u, op.x.dtype, {op.docs.tokens, E}, "u");
  if (op.tail) check_packed(op.tail, DType::f32, {entries(op), W - 1, E}, "tail");
}

void check_op(const ConvBackward& op) {
  check_conv(op);
  const int64_t T = op.docs.tokens, E = op.w.rows(), W = op.w.columns();
  check_gradient(op.du, op.x.dtype, {T, E}, "du");
  check_activation(op.dx, op.x.dtype, {T, E}, "dx");
  check_packed(op.dw, DType::f32, {E, W}, "dw");
  if (op.bias) check_packed(op.dbias, DType::f32, {E}, "dbias");
  if (op.dleft) check_packed(op.dleft, DType::f32, {entries(op), W - 1, E}, "dleft");
  if (op.dtail) check_packed(op.dtail, DType::f32, {entries(op), W - 1, E}, "dtail");
}

void check_op(const ScanForward& op) {
  check_scan(op);
  const int64_t T = op.docs.tokens, E = op.a_log.rows(), N = op.a_log.columns();
  check_activation(op.o, op.u.dtype, {T, E}, "o");
  if (op.h_last) check_packed(op.h_last, DType::f32, {entries(op), N, E}, "h_last");
  JAMBALAYA_CHECK(!op.ends_only || !op.h0 || op.h_last.data != op.h0.data, "h_last is h0's memory");
  if (op.states) check_packed(op.states, DType::f32, {scan_states(T), N, E}, "states");
  if (op.delta_range) check_packed(op.delta_range, DType::f32, {2}, "delta_range");
}

void check_op(const ScanBackward& op) {
  check_scan(op);
  const int64_t T = op.docs.tokens, E = op.a_log.rows(), N = op.a_log.columns();
  check_activation(op.d_out, op.u.dtype, {T, E}, "d_out");
  check_gradient(op.du, op.u.dtype, {T, E}, "du");
  check_activation(op.ds, op.u.dtype, {T, E}, "ds");
  if (op.z) check_activation(op.dz, op.u.dtype, {T, E}, "dz");
  check_per_state(op, op.db, "db");
  check_per_state(op, op.dc, "dc");
  check_packed(op.states, DType::f32, {scan_states(T), N, E}, "states");
  check_packed(op.da_log, DType::f32, {E, N}, "da_log");
  check_packed(op.dd, DType::f32, {E}, "dd");
  check_packed(op.ddt_bias, DType::f32, {E}, "ddt_bias");
  if (op.dh_last) check_packed(op.dh_last, DType::f32, {entries(op), N, E}, "dh_last");
  if (op.dh0) check_packed(op.dh0, DType::f32, {entries(op), N, E}, "dh0");
}

void check_op(const ScanCarryForward& op) {
  check_decay(op);
  const int64_t E = op.a_log.rows(), N = op.a_log.columns();
  check_activation(op.u, op.s.dtype, {op.docs.tokens, E}, "u");
  check_per_state(op, op.b, "b");
  check_packed(op.h_end, DType::f32, {N, E}, "h_end");
  check_packed(op.decay, DType::f32, {N, E}, "decay");
}

void check_op(const ScanCarryBackward& op) {
  check_decay(op);
  const int64_t E = op.a_log.rows(), N = op.a_log.columns();
  check_activation(op.d_out, op.s.dtype, {op.docs.tokens, E}, "d_out");
  if (op.z) check_activation(op.z, op.s.dtype, {op.docs.tokens, E}, "z");
  check_per_state(op, op.c, "c");
  check_packed(op.dh0, DType::f32, {N, E}, "dh0");
}

}  // namespace jambalaya
