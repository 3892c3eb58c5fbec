// Attention over a stream of keys that comes in chunks, as on a ring of ranks: the merged forward and the
// summed backward are those of the whole stream.
#include <gtest/gtest.h>

#include <numeric>

#include "tests/kernels/reference/attention.h"
#include "tests/support/op_test.h"

namespace jambalaya {
namespace {

using reference::Values;
using test::available_isas;
using test::Owned;
using test::relative_l2;
using test::TestContext;

float scale_of(int64_t size) { return float(1 / std::sqrt(double(size))); }

/// Documents packed into one stream, cut into chunks [cuts[r], cuts[r + 1]).
struct Stream {
  int64_t query_heads, key_heads, size;
  std::vector<int64_t> lengths, cuts{};

  int64_t tokens() const { return std::accumulate(lengths.begin(), lengths.end(), int64_t(0)); }
  int64_t longest() const { return *std::max_element(lengths.begin(), lengths.end()); }
  int64_t chunks() const { return int64_t(cuts.size()) - 1; }
  Stream cut_into(int64_t n) const {
    Stream s = *this;
    s.cuts.clear();
    for (int64_t r = 0; r <= n; r++) s.cuts.push_back(tokens() * r / n);
    return s;
  }
  reference::Attention reference() const {
    reference::Attention r{query_heads, key_heads, size, 1 / std::sqrt(double(size)), lengths, {}, {}};
    int64_t t = 0;
    for (int64_t l : lengths) r.first_key.push_back(t), r.past.push_back(0), t += l;
    return r;
  }
  std::string describe() const {
    std::string s = cat("H ", query_heads, " G ", key_heads, " C ", size, " lengths");
    for (int64_t l : lengths) s += cat(" ", l);
    s += " cuts";
    for (int64_t c : cuts) s += cat(" ", c);
    return s;
  }
};

/// What chunk `queries` sees of chunk `keys`: a segment per document in the chunk of queries.
struct View {
  View(const Stream& s, int64_t queries, int64_t keys) {
    const int64_t q0 = s.cuts[size_t(queries)], q1 = s.cuts[size_t(queries + 1)];
    const int64_t k0 = s.cuts[size_t(keys)], k1 = s.cuts[size_t(keys + 1)];
    std::vector<int64_t> tokens, position;
    Values begin, count;
    int64_t start = 0;
    for (int64_t length : s.lengths) {
      const int64_t end = start + length, q = std::max(q0, start), n = std::min(q1, end) - q;
      const int64_t k = std::max(k0, start);
      if (n > 0) {
        tokens.push_back(n);
        position.push_back(std::max<int64_t>(0, q - k));
        const bool seen = k <= q && k < std::min(k1, end);
        begin.push_back(seen ? double(k - k0) : 0);
        count.push_back(seen ? double(std::min(k1, end) - k) : 0);
      }
      start = end;
    }
    docs.assign(tokens, position);
    key_begin = Owned(DType::i64, {int64_t(begin.size())}).assign(begin);
    key_count = Owned(DType::i64, {int64_t(count.size())}).assign(count);
  }
  DocumentsBuffer docs;
  Owned key_begin, key_count;
};

/// The tensors of a stream and what the ring makes of them.
struct Ring {
  Ring(const Stream& s, DType act_dtype)
      : stream(s),
        act(act_dtype),
        width(s.query_heads * s.size),
        key_width(s.key_heads * s.size),
        q(act, {s.tokens(), width}, width + 3),
        k(act, {s.tokens(), key_width}, key_width + 5),
        v(act, {s.tokens(), key_width}, key_width + 1),
        d_out(act, {s.tokens(), width}, width + 2),
        o(DType::f32, {s.tokens(), width}, width + 7),
        lse(DType::f32, {s.query_heads, s.tokens()}),
        dq(DType::f32, {s.tokens(), width}, width + 1),
        dk(DType::f32, {s.tokens(), key_width}, key_width + 2),
        dv(DType::f32, {s.tokens(), key_width}, key_width + 3) {
    uint64_t seed = 1;
    for (Owned* x : {&q, &k, &v, &d_out}) x->uniform(seed++);
  }

  Tensor chunk(const Owned& x, int64_t r) const {
    return x->slice_rows(stream.cuts[size_t(r)], stream.cuts[size_t(r + 1)]);
  }
  Tensor columns(const Owned& x, int64_t r) const {
    return x->slice_columns(stream.cuts[size_t(r)], stream.cuts[size_t(r + 1)]);
  }
  /// Calls f(rank, owner of the block that the rank meets, step) in the ring's order.
  template <class F>
  void for_each_step(F&& f) const {
    const int64_t c = stream.chunks();
    for (int64_t r = 0; r < c; r++)
      for (int64_t step = 0; step < c; step++) f(r, (r - step + c) % c, step);
  }

  void forward(TestContext& ctx) {
    for_each_step([&](int64_t r, int64_t owner, int64_t step) {
      View view(stream, r, owner);
      const int64_t n = view.docs.view().tokens;
      Owned part(DType::f32, {n, width}, width + 4), part_lse(DType::f32, {stream.query_heads, n}, n + 1);
      Tensor o_r = chunk(o, r), lse_r = columns(lse, r);
      ctx->attention_forward(ctx, {.q = chunk(q, r),
                                   .k = chunk(k, owner),
                                   .v = chunk(v, owner),
                                   .head_size = stream.size,
                                   .scale = scale_of(stream.size),
                                   .docs = view.docs.view(),
                                   .key_begin = view.key_begin,
                                   .key_count = view.key_count,
                                   .o = step ? part.tensor() : o_r,
                                   .lse = step ? part_lse.tensor() : lse_r});
      EXPECT_TRUE(part.guards_intact() && part_lse.guards_intact());
      if (step)
        ctx->attention_merge(
            ctx, {.o = o_r, .lse = lse_r, .part = part, .part_lse = part_lse, .head_size = stream.size});
    });
  }

  /// After forward. delta from its own op, or from o at every block.
  void backward(TestContext& ctx, bool own_delta = true) {
    Owned o_act(act, {stream.tokens(), width}), delta(DType::f32, {stream.query_heads, stream.tokens()});
    o_act.assign(o.values());
    if (own_delta)
      ctx->attention_delta(ctx, {.d_out = d_out, .o = o_act, .head_size = stream.size, .delta = delta});
    for (Owned* x : {&dq, &dk, &dv}) x->fill(0);
    for_each_step([&](int64_t r, int64_t owner, int64_t) {
      View view(stream, r, owner);
      ctx->attention_backward(ctx, {.d_out = chunk(d_out, r),
                                    .q = chunk(q, r),
                                    .k = chunk(k, owner),
                                    .v = chunk(v, owner),
                                    .o = own_delta ? Tensor() : chunk(o_act, r),
                                    .lse = columns(lse, r),
                                    .head_size = stream.size,
                                    .scale = scale_of(stream.size),
                                    .docs = view.docs.view(),
                                    .key_begin = view.key_begin,
                                    .key_count = view.key_count,
                                    .delta = own_delta ? columns(delta, r) : Tensor(),
                                    .dq = chunk(dq, r),
                                    .dk = chunk(dk, owner),
                                    .dv = chunk(dv, owner),
                                    .accumulate = true});
    });
  }
  std::string bits() const { return o.bits() + lse.bits() + dq.bits() + dk.bits() + dv.bits(); }
  bool guards_intact() const {
    bool intact = true;
    for (const Owned* x : {&o, &lse, &dq, &dk, &dv}) intact &= x->guards_intact();
    return intact;
  }

  Stream stream;
  DType act;
  int64_t width, key_width;
  Owned q, k, v, d_out, o, lse, dq, dk, dv;
};

Values joined(std::initializer_list<Values> parts) {
  Values all;
  for (const Values& p : parts) all.insert(all.end(), p.begin(), p.end());
  return all;
}

/// The same stream in one call of each op.
struct Whole {
  Whole(const Ring& r, TestContext& ctx)
      : docs(r.stream.lengths),
        o(r.act, {r.stream.tokens(), r.width}),
        lse(DType::f32, {r.stream.query_heads, r.stream.tokens()}),
        dq(r.act, {r.stream.tokens(), r.width}),
        dk(r.act, {r.stream.tokens(), r.key_width}),
        dv(r.act, {r.stream.tokens(), r.key_width}) {
    const float scale = scale_of(r.stream.size);
    ctx->attention_forward(ctx,
                           {r.q, r.k, r.v, r.stream.size, scale, docs.view(), Tensor(), Tensor(), o, lse});
    ctx->attention_backward(ctx, {.d_out = r.d_out,
                                  .q = r.q,
                                  .k = r.k,
                                  .v = r.v,
                                  .o = o,
                                  .lse = lse,
                                  .head_size = r.stream.size,
                                  .scale = scale,
                                  .docs = docs.view(),
                                  .dq = dq,
                                  .dk = dk,
                                  .dv = dv});
  }
  DocumentsBuffer docs;
  Owned o, lse, dq, dk, dv;
};

/// The float64 reference of a stream, however it is cut.
struct Expected {
  Expected(const Stream& s, DType act) {
    Ring ring(s, act);
    auto ref = s.reference();
    Values q = ring.q.values(), k = ring.k.values(), v = ring.v.values();
    ref.forward(q, k, v, o, lse);
    ref.backward(q, k, v, ring.d_out.values(), dq, dk, dv);
  }
  Values o, lse, dq, dk, dv;
};

void expect_ring_equals_whole(const Stream& stream, const Expected& expected, DType act,
                              const std::string& isa) {
  SCOPED_TRACE(stream.describe() + " " + name_of(act) + " " + isa);
  TestContext ctx(2, isa);
  Ring ring(stream, act);
  ring.forward(ctx);
  ring.backward(ctx);
  EXPECT_TRUE(ring.guards_intact());
  const double rounding = 2e-6 * std::sqrt(double(stream.longest()));
  const double forward = act == DType::f32 ? rounding : 4e-3, backward = act == DType::f32 ? rounding : 8e-3;
  EXPECT_LE(relative_l2(ring.o, expected.o), forward);
  EXPECT_LE(relative_l2(ring.lse, expected.lse), 1e-5);
  if (stream.longest() > 2) {  // with one key per query dq, dk are 0 up to rounding
    EXPECT_LE(relative_l2(ring.dq, expected.dq), backward);
    EXPECT_LE(relative_l2(ring.dk, expected.dk), backward);
  }
  EXPECT_LE(relative_l2(ring.dv, expected.dv), backward);
  const Values got = joined({ring.dq.values(), ring.dk.values(), ring.dv.values()});
  EXPECT_LE(relative_l2(got, joined({expected.dq, expected.dk, expected.dv})), backward);
  Whole whole(ring, ctx);
  EXPECT_LE(relative_l2(ring.o, whole.o.values()), 2 * forward);
  EXPECT_LE(relative_l2(got, joined({whole.dq.values(), whole.dk.values(), whole.dv.values()})),
            2 * backward);
}

const std::vector<Stream> kStreams = {
    {4, 2, 33, {70, 1, 2, 129}},       // borders anywhere
    {8, 2, 64, {64, 64, 64, 64}},      // borders at the cuts into 2 and 4
    {3, 1, 128, {301}},                // one document over every chunk
    {2, 2, 80, {40, 40, 0, 40}},       // chunks that see nothing of each other, a document without tokens
    {40, 2, 8, {90, 45}},              // more heads per key head than one block takes
    {6, 3, 16, {5, 150, 3, 1, 1, 2}},  // short documents after a long one
    {2, 1, 32, {3}},                   // chunks of no token
};

TEST(AttentionRing, a_ring_over_any_number_of_chunks_equals_the_whole) {
  for (const Stream& s : kStreams)
    for (DType act : {DType::f32, DType::bf16}) {
      const Expected expected(s, act);
      for (const auto& isa : available_isas())
        for (int64_t chunks : {1, 2, 3, 4}) expect_ring_equals_whole(s.cut_into(chunks), expected, act, isa);
    }
}

TEST(AttentionRing, a_ring_over_uneven_chunks_equals_the_whole) {
  std::vector<Stream> streams = {
      {2, 1, 16, {630}, {0, 600, 605, 630}},  // few tokens against a long block: keys in pieces
      {2, 1, 64, {20, 180, 30}, {0, 0, 20, 20, 199, 200, 230}},  // empty chunks, cuts at and beside borders
      {2, 2, 8, {1, 1, 1, 1}, {0, 1, 1, 3, 4}},
  };
  for (const Stream& s : streams)
    for (DType act : {DType::f32, DType::bf16}) {
      const Expected expected(s, act);
      for (const auto& isa : available_isas()) expect_ring_equals_whole(s, expected, act, isa);
    }
}

TEST(AttentionRing, same_bits_for_any_number_of_threads) {
  for (DType act : {DType::f32, DType::bf16}) {
    std::string first;
    for (int threads : {1, 2, 3}) {
      TestContext ctx(threads);
      Ring ring(Stream{6, 2, 64, {300, 5, 100}}.cut_into(3), act);
      ring.forward(ctx);
      ring.backward(ctx);
      if (first.empty()) first = ring.bits();
      EXPECT_EQ(ring.bits(), first) << threads;
    }
  }
}

TEST(AttentionRing, delta_from_its_op_gives_the_bits_of_delta_from_o) {
  for (const auto& isa : available_isas())
    for (DType act : {DType::f32, DType::bf16}) {
      TestContext ctx(2, isa);
      Ring ring(Stream{4, 2, 40, {90, 30}}.cut_into(2), act);
      ring.forward(ctx);
      ring.backward(ctx, true);
      const std::string bits = ring.bits();
      ring.backward(ctx, false);
      EXPECT_EQ(ring.bits(), bits) << isa;
    }
}

}  // namespace
}  // namespace jambalaya
