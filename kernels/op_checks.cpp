#include "kernels/op_checks.h"

#include "kernels/check.h"

namespace jambalaya {
namespace {

/// A table or a head holds rows [first, first + rows) of a vocabulary.
void check_part(int64_t first, int64_t rows, int64_t vocabulary) {
  const int64_t whole = vocabulary ? vocabulary : rows;
  JAMBALAYA_CHECK(first >= 0 && first + rows <= whole, "rows [", first, ", ", first + rows,
                  ") of a vocabulary of ", whole);
}

/// f32 [rows, columns]; rows may be strided.
void check_f32(const Tensor& t, int64_t rows, int64_t columns, const char* name) {
  check_activation(t, DType::f32, {rows, columns}, name);
}

/// f32 or bf16 of this shape, whatever the op's other tensors are.
void check_any_act(const Tensor& t, std::initializer_list<int64_t> shape, const char* name) {
  check_shape(t, shape, name);
  act_kind(t);
}

/// n elements in any shape: an optimizer's piece of all parameters.
void check_flat(const Tensor& t, DType dtype, int64_t n, const char* name) {
  JAMBALAYA_CHECK(t.dtype == dtype && t.packed() && t.numel() == n, name, " is ", t.describe(), ", not ",
                  name_of(dtype), " of ", n);
}

/// A part of p's columns that is normed: its weight, and the weight's gradient where there is one.
void check_norm_weight(const Tensor& weight, int64_t n, const char* name) {
  if (weight) check_packed(weight, DType::f32, {n}, name);
}

}  // namespace

void check_op(const Gemm& op) {
  const Tensor &a = op.a, &b = op.b, &c = op.c;
  JAMBALAYA_CHECK(a.rank == 2 && b.rank == 2 && c.rank == 2, "a ", a.describe(), ", b ", b.describe(), ", c ",
                  c.describe());
  act_kind(a), act_kind(c);
  JAMBALAYA_CHECK(a.dtype == b.dtype, "a ", a.describe(), ", b ", b.describe());
  const int64_t k = op.transpose_a ? a.rows() : a.columns();
  JAMBALAYA_CHECK((op.transpose_a ? a.columns() : a.rows()) == c.rows() &&
                      (op.transpose_b ? b.columns() : b.rows()) == k &&
                      (op.transpose_b ? b.rows() : b.columns()) == c.columns(),
                  "a ", a.describe(), op.transpose_a ? " transposed" : "", ", b ", b.describe(),
                  op.transpose_b ? " transposed" : "", ", c ", c.describe());
}

void check_op(const GroupedGemm& op) {
  const bool forward = op.kind == GroupedGemm::Kind::forward,
             weight_gradient = op.kind == GroupedGemm::Kind::weight_gradient;
  const Tensor &a = op.a, &w = op.w, &y = op.y;
  JAMBALAYA_CHECK(w.rank == 3, "w ", w.describe());
  check_packed(op.offsets, DType::i32, {w.rows() + 1}, "offsets");
  JAMBALAYA_CHECK(a.rank == 2 && y.rank == 2 && a.rows() == y.rows(), "a ", a.describe(), ", y ",
                  y.describe());
  act_kind(a), act_kind(w), act_kind(y);
  JAMBALAYA_CHECK(!weight_gradient || w.dtype == DType::f32, "gradients of parameters are f32, w is ",
                  w.describe());
  JAMBALAYA_CHECK(a.dtype == (weight_gradient ? y : w).dtype, "a ", a.describe(), ", second operand ",
                  (weight_gradient ? y : w).describe());
  // forward: a [., k], y [., n]; both gradients: a [., n], y [., k], w [X, n, k]
  JAMBALAYA_CHECK(a.columns() == w.shape[forward ? 2 : 1] && y.columns() == w.shape[forward ? 1 : 2], "a ",
                  a.describe(), ", w ", w.describe(), ", y ", y.describe());
}

void check_op(const EmbeddingForward& op) {
  const int64_t tokens = op.ids.rows(), width = op.table.columns();
  check_packed(op.ids, DType::i32, {tokens}, "ids");
  check_any_act(op.table, {op.table.rows(), width}, "table");
  check_any_act(op.y, {tokens, width}, "y");
  check_part(op.first_id, op.table.rows(), op.vocabulary);
}

void check_op(const EmbeddingBackward& op) {
  const int64_t tokens = op.ids.rows(), width = op.dtable.columns();
  check_packed(op.ids, DType::i32, {tokens}, "ids");
  check_any_act(op.dy, {tokens, width}, "dy");
  check_f32(op.dtable, op.dtable.rows(), width, "dtable");
  check_part(op.first_id, op.dtable.rows(), op.vocabulary);
}

void check_op(const HeadLoss& op) {
  const int64_t tokens = op.h.rows(), width = op.h.columns(), rows = op.w.rows();
  check_activation(op.h, op.h.dtype, {tokens, width}, "h");
  check_activation(op.w, op.h.dtype, {rows, width}, "w");
  check_packed(op.targets, DType::i32, {tokens}, "targets");
  check_packed(op.loss_sum, DType::f64, {2}, "loss_sum");
  JAMBALAYA_CHECK(op.combine ? op.parts >= 1 : op.parts == 1 && (!op.vocabulary || op.vocabulary == rows),
                  "a vocabulary of ", op.vocabulary, " in ", op.parts, " parts without `combine`");
  check_part(op.first_id, rows, op.vocabulary);
  if (op.nll) check_packed(op.nll, DType::f32, {tokens}, "nll");
  if (op.correct) check_packed(op.correct, DType::u8, {tokens}, "correct");
  JAMBALAYA_CHECK(bool(op.dh) == bool(op.dw), "dh and dw come together");
  if (!op.dh) return;
  check_activation(op.dh, op.h.dtype, {tokens, width}, "dh");
  check_f32(op.dw, rows, width, "dw");
}

void check_op(const RmsNormForward& op) {
  const int64_t rows = op.h.rows(), width = op.h.columns();
  check_any_act(op.h, {rows, width}, "h");
  check_any_act(op.y, {rows, width}, "y");
  check_packed(op.weight, DType::f32, {width}, "weight");
  check_packed(op.rstd, DType::f32, {rows}, "rstd");
  if (!op.branch) return;
  check_any_act(op.branch, {rows, width}, "branch");
  check_activation(op.h_out, op.h.dtype, {rows, width}, "h_out");
}

void check_op(const RmsNormBackward& op) {
  const int64_t rows = op.h.rows(), width = op.h.columns();
  check_any_act(op.h, {rows, width}, "h");
  check_any_act(op.dy, {rows, width}, "dy");
  check_any_act(op.dh, {rows, width}, "dh");
  check_packed(op.weight, DType::f32, {width}, "weight");
  check_packed(op.dweight, DType::f32, {width}, "dweight");
  check_packed(op.rstd, DType::f32, {rows}, "rstd");
}

void check_op(const SsmNormsForward& op) {
  const int64_t rows = op.p.rows(), r = op.dt.columns(), n = op.b.columns();
  check_f32(op.p, rows, r + 2 * n, "p");
  check_any_act(op.dt, {rows, r}, "dt");
  check_f32(op.b, rows, n, "b");
  check_f32(op.c, rows, n, "c");
  check_packed(op.rstd, DType::f32, {rows, 3}, "rstd");
  check_norm_weight(op.w_dt, r, "w_dt");
  check_norm_weight(op.w_b, n, "w_b");
  check_norm_weight(op.w_c, n, "w_c");
}

void check_op(const SsmNormsBackward& op) {
  const int64_t rows = op.p.rows(), r = op.ddt.columns(), n = op.db.columns();
  check_f32(op.p, rows, r + 2 * n, "p");
  check_f32(op.dp, rows, r + 2 * n, "dp");
  check_any_act(op.ddt, {rows, r}, "ddt");
  check_f32(op.db, rows, n, "db");
  check_f32(op.dc, rows, n, "dc");
  check_packed(op.rstd, DType::f32, {rows, 3}, "rstd");
  check_norm_weight(op.w_dt, r, "w_dt");
  check_norm_weight(op.w_b, n, "w_b");
  check_norm_weight(op.w_c, n, "w_c");
  if (op.w_dt) check_packed(op.dw_dt, DType::f32, {r}, "dw_dt");
  if (op.w_b) check_packed(op.dw_b, DType::f32, {n}, "dw_b");
  if (op.w_c) check_packed(op.dw_c, DType::f32, {n}, "dw_c");
}

void check_op(const Rope& op) {
  const int64_t size = op.head_size;
  JAMBALAYA_CHECK(size >= 2 && size % 2 == 0, "rope of head size ", size);
  JAMBALAYA_CHECK(op.x.rank == 2 && op.x.rows() == op.docs.tokens && op.x.columns() % size == 0, "x ",
                  op.x.describe(), ", tokens ", op.docs.tokens, ", head size ", size);
  act_kind(op.x);
}

void check_op(const CacheAppend& op) {
  const int64_t tokens = op.docs.tokens, width = op.keys.columns(), sequences = op.docs.count;
  const DType act = op.keys.dtype;
  check_activation(op.keys, act, {tokens, width}, "keys");
  check_activation(op.values, act, {tokens, width}, "values");
  check_activation(op.key_cache, act, {op.key_cache.rows(), width}, "key_cache");
  check_activation(op.value_cache, act, {op.key_cache.rows(), width}, "value_cache");
  JAMBALAYA_CHECK(sequences == 0 || op.key_cache.rows() % sequences == 0, "key_cache ",
                  op.key_cache.describe(), " of ", sequences, " sequences");
  for (int64_t s = 0; s < sequences; s++) {
    const int64_t past = op.docs.first_position[s], n = op.docs.offsets[s + 1] - op.docs.offsets[s];
    JAMBALAYA_CHECK(past >= 0 && past + n <= op.key_cache.rows() / sequences, "sequence ", s, " has ", past,
                    " rows, gets ", n, ", key_cache ", op.key_cache.describe(), " of ", sequences,
                    " sequences");
  }
}

void check_op(const ScaleCopy& op) {
  JAMBALAYA_CHECK(op.x.rank == op.y.rank && op.x.shape == op.y.shape, "x is ", op.x.describe(), ", y is ",
                  op.y.describe());
  if (op.x.dtype == DType::f64 && op.y.dtype == DType::f64) return;
  act_kind(op.x), act_kind(op.y);
}

void check_op(const MultiplyAdd& op) {
  const int64_t n = op.y.numel();
  check_flat(op.a, DType::f32, n, "a");
  check_flat(op.x, DType::f32, n, "x");
  check_flat(op.b, DType::f32, n, "b");
  check_flat(op.y, DType::f32, n, "y");
}

void check_op(const AddBias& op) {
  check_any_act(op.x, {op.x.rows(), op.x.columns()}, "x");
  check_any_act(op.bias, {op.x.columns()}, "bias");
  JAMBALAYA_CHECK(op.bias.packed(), "bias is ", op.bias.describe());
}

void check_op(const BiasBackward& op) {
  check_any_act(op.dy, {op.dy.rows(), op.dy.columns()}, "dy");
  check_packed(op.dbias, DType::f32, {op.dy.columns()}, "dbias");
}

void check_op(const SumSquares& op) {
  act_kind(op.x);
  check_packed(op.out, DType::f64, {2}, "out");
}

void check_op(const AdamW& op) {
  const int64_t n = op.param.numel();
  JAMBALAYA_CHECK(op.step >= 1, "step ", op.step);
  check_flat(op.param, DType::f32, n, "param");
  check_flat(op.m, DType::f32, n, "m");
  check_flat(op.v, DType::f32, n, "v");
  check_flat(op.grad, DType::f32, n, "grad");
  check_packed(op.grad_scale, DType::f32, {2}, "grad_scale");
  if (op.compute) check_flat(op.compute, DType::bf16, n, "compute");
}

}  // namespace jambalaya
