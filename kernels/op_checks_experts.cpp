#include <limits>

#include "kernels/check.h"
#include "kernels/op_checks.h"

namespace jambalaya {

void check_op(const SwigluForward& op) {
  const int64_t rows = op.h.rows(), width = op.h.columns();
  check_activation(op.h, op.h.dtype, {rows, width}, "h");
  check_activation(op.gate_up, op.h.dtype, {rows, 2 * width}, "gate_up");
}

void check_op(const SwigluBackward& op) {
  const int64_t rows = op.dh.rows(), width = op.dh.columns();
  check_activation(op.dh, op.dh.dtype, {rows, width}, "dh");
  check_activation(op.gate_up, op.dh.dtype, {rows, 2 * width}, "gate_up");
  check_activation(op.dgate_up, op.dh.dtype, {rows, 2 * width}, "dgate_up");
}

void check_op(const RouterForward& op) {
  const int64_t tokens = op.logits.rows(), experts = op.logits.columns(), k = op.k;
  JAMBALAYA_CHECK(1 <= k && k <= experts, "choose ", k, " of ", experts, " experts");
  check_packed(op.logits, DType::f32, {tokens, experts}, "logits");
  check_packed(op.probs, DType::f32, {tokens, experts}, "probs");
  check_packed(op.expert, DType::i32, {tokens, k}, "expert");
  check_packed(op.weight, DType::f32, {tokens, k}, "weight");
  check_packed(op.lse, DType::f32, {tokens}, "lse");
  check_packed(op.stats, DType::f32, {2 * experts + 1}, "stats");
}

void check_op(const RouterBackward& op) {
  const int64_t tokens = op.probs.rows(), experts = op.probs.columns(), k = op.expert.columns();
  check_packed(op.probs, DType::f32, {tokens, experts}, "probs");
  check_packed(op.expert, DType::i32, {tokens, k}, "expert");
  check_packed(op.weight, DType::f32, {tokens, k}, "weight");
  check_packed(op.lse, DType::f32, {tokens}, "lse");
  check_packed(op.dweight, DType::f32, {tokens, k}, "dweight");
  if (op.dprob) check_packed(op.dprob, DType::f32, {experts}, "dprob");
  check_packed(op.dlogits, DType::f32, {tokens, experts}, "dlogits");
}

void check_op(const BalanceLoss& op) {
  const int64_t layers = op.stats.rows(), experts = (op.stats.columns() - 1) / 2;
  check_activation(op.stats, DType::f32, {layers, 2 * experts + 1}, "stats");
  check_activation(op.dprob, DType::f32, {layers, experts}, "dprob");
  check_packed(op.sums, DType::f64, {2}, "sums");
  JAMBALAYA_CHECK(op.tokens > 0, "tokens ", op.tokens);
}

void check_op(const SortByExpert& op) {
  const int64_t tokens = op.expert.rows(), k = op.expert.columns();
  JAMBALAYA_CHECK(tokens * k <= std::numeric_limits<int32_t>::max(), tokens, " tokens times ", k, " choices");
  check_packed(op.expert, DType::i32, {tokens, k}, "expert");
  check_packed(op.offsets, DType::i32, {op.experts + 1}, "offsets");
  check_packed(op.row_of, DType::i32, {tokens, k}, "row_of");
  check_packed(op.token_of, DType::i32, {tokens * k}, "token_of");
}

void check_op(const GatherRows& op) {
  const int64_t rows = op.token_of.rows(), width = op.x.columns();
  check_packed(op.token_of, DType::i32, {rows}, "token_of");
  check_activation(op.x, op.x.dtype, {op.x.rows(), width}, "x");
  check_activation(op.y, op.x.dtype, {rows, width}, "y");
}

void check_op(const GatherRowsBackward& op) {
  const int64_t tokens = op.row_of.rows(), k = op.row_of.columns(), width = op.dy.columns();
  check_activation(op.dy, op.dy.dtype, {tokens * k, width}, "dy");
  check_packed(op.row_of, DType::i32, {tokens, k}, "row_of");
  check_activation(op.dx, op.dx.dtype, {tokens, width}, "dx");
}

void check_op(const CombineForward& op) {
  const int64_t tokens = op.row_of.rows(), k = op.row_of.columns(), width = op.x.columns();
  check_activation(op.x, op.x.dtype, {tokens * k, width}, "x");
  check_packed(op.row_of, DType::i32, {tokens, k}, "row_of");
  check_packed(op.weight, DType::f32, {tokens, k}, "weight");
  check_activation(op.y, op.y.dtype, {tokens, width}, "y");
}

void check_op(const CombineBackward& op) {
  const int64_t tokens = op.row_of.rows(), k = op.row_of.columns(), width = op.x.columns();
  check_activation(op.dy, op.dy.dtype, {tokens, width}, "dy");
  check_activation(op.x, op.x.dtype, {tokens * k, width}, "x");
  check_packed(op.row_of, DType::i32, {tokens, k}, "row_of");
  check_packed(op.weight, DType::f32, {tokens, k}, "weight");
  check_activation(op.dx, op.x.dtype, {tokens * k, width}, "dx");
  check_packed(op.dweight, DType::f32, {tokens, k}, "dweight");
}

}  // namespace jambalaya
