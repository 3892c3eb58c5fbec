#include "kernels/attention_segments.h"

#include "kernels/check.h"

namespace jambalaya {
namespace attention {

Segments::Segments(const Documents& docs, const Tensor& key_begin, const Tensor& key_count, int64_t key_rows)
    : docs_(docs) {
  for (const Tensor* t : {&key_begin, &key_count})
    if (*t)
      JAMBALAYA_CHECK(t->dtype == DType::i64 && t->numel() == docs.count, "key_begin ", key_begin.describe(),
                      ", key_count ", key_count.describe(), ", segments ", docs.count);
  JAMBALAYA_CHECK(key_begin || !key_count, "key_count needs key_begin");
  if (key_begin) begin_ = key_begin.ptr<int64_t>();
  if (key_count) count_ = key_count.ptr<int64_t>();
  for (int64_t s = 0; s < docs.count; s++) {
    JAMBALAYA_CHECK(past(s) >= 0, "segment ", s, " starts at position ", past(s));
    JAMBALAYA_CHECK(!count_ || count_[s] >= 0, "segment ", s, " has ", count_[s], " keys");
    const int64_t end = first_key(s) + seen(s);
    if (seen(s) > 0)
      JAMBALAYA_CHECK(first_key(s) >= 0 && end <= key_rows, "segment ", s, " looks at key rows [",
                      first_key(s), ", ", end, ") of ", key_rows);
  }
}

int64_t Segments::end_of_disjoint(int64_t first) const {
  int64_t end = 0, s = first;
  for (; s < count(); s++) {
    if (seen(s) == 0) continue;
    if (s > first && first_key(s) < end) break;
    end = first_key(s) + seen(s);
  }
  return s;
}

}  // namespace attention

namespace {

using attention::Heads;

/// q, k, v are matrices of one activation dtype whose columns are whole heads.
Heads check_heads(const Tensor& q, const Tensor& k, const Tensor& v, int64_t size, const Documents& docs) {
  JAMBALAYA_CHECK(size > 0 && q.rank == 2 && k.rank == 2 && v.rank == 2, "q ", q.describe(), ", k ",
                  k.describe(), ", v ", v.describe(), ", head size ", size);
  act_kind(q);
  JAMBALAYA_CHECK(q.columns() % size == 0 && k.columns() % size == 0, "head size ", size, ", q ",
                  q.describe(), ", k ", k.describe());
  JAMBALAYA_CHECK(k.shape == v.shape && k.dtype == q.dtype && v.dtype == q.dtype, "q ", q.describe(), ", k ",
                  k.describe(), ", v ", v.describe());
  Heads heads{size, q.columns() / size, k.columns() / size};
  JAMBALAYA_CHECK(heads.key > 0 && heads.query % heads.key == 0, heads.query, " query heads, ", heads.key,
                  " key heads");
  JAMBALAYA_CHECK(q.rows() == docs.tokens, "q ", q.describe(), ", tokens ", docs.tokens);
  return heads;
}

/// The heads of o alone, where no key is at hand.
Heads check_heads(const Tensor& o, int64_t size) {
  act_kind(o);
  JAMBALAYA_CHECK(o.rank == 2 && size > 0 && o.columns() % size == 0, "o ", o.describe(), ", head size ",
                  size);
  return {size, o.columns() / size, o.columns() / size};
}

void check_like(const Tensor& t, const Tensor& like, DType dtype, const char* name) {
  JAMBALAYA_CHECK(t.rank == 2 && t.shape == like.shape && t.dtype == dtype, name, " ", t.describe(),
                  ", wanted ", name_of(dtype), " as ", like.describe());
}

/// f32 [H, T].
void check_per_query(const Tensor& t, const Heads& heads, int64_t tokens, const char* name) {
  JAMBALAYA_CHECK(t.dtype == DType::f32 && t.rank == 2 && t.rows() == heads.query && t.columns() == tokens,
                  name, " ", t.describe(), ", query heads ", heads.query, ", tokens ", tokens);
}

}  // namespace

Heads check_op(const AttentionForward& op) {
  const Heads heads = check_heads(op.q, op.k, op.v, op.head_size, op.docs);
  check_like(op.o, op.q, op.o.dtype == DType::f32 ? DType::f32 : op.q.dtype, "o");
  if (op.lse) check_per_query(op.lse, heads, op.q.rows(), "lse");
  return heads;
}

Heads check_op(const AttentionBackward& op) {
  const Heads heads = check_heads(op.q, op.k, op.v, op.head_size, op.docs);
  const DType gradient = op.accumulate ? DType::f32 : op.q.dtype;
  check_like(op.d_out, op.q, op.q.dtype, "d_out");
  check_like(op.dq, op.q, gradient, "dq");
  check_like(op.dk, op.k, gradient, "dk");
  check_like(op.dv, op.v, gradient, "dv");
  JAMBALAYA_CHECK(op.key_begin || op.k.rows() == op.q.rows(), "q ", op.q.describe(), ", k ", op.k.describe());
  if (!op.accumulate) {
    const attention::Segments segments(op.docs, op.key_begin, op.key_count, op.k.rows());
    JAMBALAYA_CHECK(segments.end_of_disjoint(0) == segments.count(),
                    "key rows that do not follow each other need accumulate");
  }
  check_per_query(op.lse, heads, op.q.rows(), "lse");
  if (op.delta)
    check_per_query(op.delta, heads, op.q.rows(), "delta");
  else
    check_like(op.o, op.q, op.q.dtype, "o");
  return heads;
}

Heads check_op(const AttentionMerge& op) {
  const Heads heads = check_heads(op.o, op.head_size);
  check_like(op.o, op.o, DType::f32, "o");
  check_like(op.part, op.o, DType::f32, "part");
  check_per_query(op.lse, heads, op.o.rows(), "lse");
  check_per_query(op.part_lse, heads, op.o.rows(), "part_lse");
  return heads;
}

Heads check_op(const AttentionDelta& op) {
  const Heads heads = check_heads(op.o, op.head_size);
  check_like(op.d_out, op.o, op.o.dtype, "d_out");
  check_per_query(op.delta, heads, op.o.rows(), "delta");
  return heads;
}

}  // namespace jambalaya
