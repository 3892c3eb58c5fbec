#include "kernels/cpu/attention_blocks.h"

namespace jambalaya::attention {

Heads check_heads(const Tensor& q, const Tensor& k, const Tensor& v, int64_t size, const Documents& docs) {
  JAMBALAYA_CHECK(size > 0 && q.rank == 2 && k.rank == 2 && v.rank == 2, "q ", q.describe(), ", k ",
                  k.describe(), ", v ", v.describe(), ", head size ", size);
  JAMBALAYA_CHECK(q.dtype == DType::f32 || q.dtype == DType::bf16, "q ", q.describe());
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

void check_per_query(const Tensor& t, const Heads& heads, int64_t tokens, const char* name) {
  JAMBALAYA_CHECK(t.dtype == DType::f32 && t.rank == 2 && t.rows() == heads.query && t.columns() == tokens,
                  name, " ", t.describe(), ", query heads ", heads.query, ", tokens ", tokens);
}

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

}  // namespace jambalaya::attention
