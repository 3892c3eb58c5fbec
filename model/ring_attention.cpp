#include "model/ring_attention.h"

#include <algorithm>
#include <cmath>

#include "kernels/trace.h"
#include "kernels/transfer.h"

namespace jambalaya {

namespace {

class Ring {
 public:
  explicit Ring(const Pass& pass)
      : pass_(pass),
        shard_(*pass.context),
        group_(pass.regions.mesh().context()),
        to_(shard_.to_balanced()) {}

  int64_t rows() const { return shard_.balanced_tokens(shard_.rank()); }
  int64_t head_size() const { return pass_.config.head_size(); }
  float scale() const { return 1.0f / std::sqrt(float(head_size())); }

  Tensor balanced(const Tensor& x) const { return exchange(x, to_, rows()); }
  void balanced(const Tensor& x, const Tensor& out) const { move(x, to_, out); }
  /// Rows come in from lower ranks first; on the right half of the ring that is the second chunk.
  void contiguous(const Tensor& x, const Tensor& out) const {
    const int64_t first = shard_.chunk(2 * shard_.rank()).count(), rows = out.rows();
    if (shard_.owner(2 * shard_.rank()) <= shard_.owner(2 * shard_.rank() + 1)) {
      move(x, to_.reversed(), out);
      return;
    }
    ArenaScope scope(*pass_.ctx.scratch);
    Tensor in = pass_.scratch(out.dtype, {rows, out.columns()}, "ring attention rows");
    move(x, to_.reversed(), in);
    pass_.ops().scale_copy(pass_.ctx,
                           {.x = in.slice_rows(rows - first, rows), .y = out.slice_rows(0, first)});
    pass_.ops().scale_copy(pass_.ctx,
                           {.x = in.slice_rows(0, rows - first), .y = out.slice_rows(first, rows)});
  }

  /// Calls f(queries, keys, visible, first) for each pair of one of this rank's chunks and one of those of
  /// the block that is here after `step` moves, where any query sees any key. Ranges are rows of the balanced
  /// parts. `first`: of these queries' pairs of all steps. Every chunk with tokens has one in step 0, since
  /// its queries see themselves.
  template <class F>
  void for_each_pair(int step, const F& f) const {
    const int owner = owner_at(step);
    int64_t query_row = 0;
    for (int64_t a : {shard_.first_chunk(shard_.rank()), shard_.second_chunk(shard_.rank())}) {
      int64_t key_row = 0;
      bool first = step == 0;
      for (int64_t b : {shard_.first_chunk(owner), shard_.second_chunk(owner)}) {
        const TokenRange queries = shard_.chunk(a), keys = shard_.chunk(b);
        if (b <= a) {
          const VisibleKeys visible = visible_keys(shard_.lengths(), queries, keys);
          if (visible.any) {
            f(TokenRange{query_row, query_row + queries.count()}, TokenRange{key_row, key_row + keys.count()},
              visible, first);
            first = false;
          }
        }
        key_row += keys.count();
      }
      query_row += shard_.chunk(a).count();
    }
  }

  int steps() const { return shard_.ranks(); }
  /// k and v side by side: one message a step.
  Tensor join(const Tensor& k, const Tensor& v) const {
    Tensor kv = pass_.scratch(k.dtype, {k.rows(), 2 * k.columns()}, "ring attention keys and values");
    pass_.ops().scale_copy(pass_.ctx, {.x = k, .y = kv.slice_columns(0, k.columns())});
    pass_.ops().scale_copy(pass_.ctx, {.x = v, .y = kv.slice_columns(k.columns(), 2 * k.columns())});
    return kv;
  }

  int owner_at(int step) const { return (shard_.rank() - step % steps() + steps()) % steps(); }
  int64_t most_rows() const {
    int64_t most = 0;
    for (int r = 0; r < shard_.ranks(); r++) most = std::max(most, shard_.balanced_tokens(r));
    return most;
  }
  int64_t rows_of(int owner) const { return shard_.balanced_tokens(owner); }
  Communicator& group() const { return group_; }

 private:
  Tensor exchange(const Tensor& x, const RowExchange& e, int64_t rows) const {
    Tensor out = pass_.scratch(x.dtype, {rows, x.columns()}, "ring attention rows");
    move(x, e, out);
    return out;
  }
  void move(const Tensor& x, const RowExchange& e, const Tensor& out) const {
    group_.all_to_all(x, e.send_starts, e.send_rows, out, e.receive_rows);
  }

  const Pass& pass_;
  const ContextShard& shard_;
  Communicator& group_;
  RowExchange to_;
};

/// A block on its way round the ring, in two buffers by turns: memory does not grow with the ranks.
class Travelling {
 public:
  Travelling(const Pass& pass, const Ring& ring, DType dtype, int64_t columns) : ring_(ring) {
    for (Tensor& b : buffers_) b = pass.scratch(dtype, {ring.most_rows(), columns}, "ring attention block");
  }
  /// The block that is here after `step` moves.
  Tensor at(int step) const { return buffers_[step % 2].slice_rows(0, ring_.rows_of(ring_.owner_at(step))); }
  /// Goes on to the right neighbour; the left one's comes in.
  void move(int step) const { ring_.group().shift(at(step), at(step + 1)); }

 private:
  const Ring& ring_;
  Tensor buffers_[2];
};

/// Arguments that forward and backward share: the query segments of one chunk and their keys.
struct PairView {
  PairView(const VisibleKeys& visible)
      : documents(visible.lengths, visible.first_positions),
        begin(make_tensor(visible.key_begin.data(), {int64_t(visible.key_begin.size())})),
        count(make_tensor(visible.key_count.data(), {int64_t(visible.key_count.size())})) {}
  DocumentsBuffer documents;
  Tensor begin, count;  ///< i64 [segments], those of `visible`
};

}  // namespace

int64_t ring_attention_rows(const Pass& pass) { return pass.context->balanced_tokens(pass.context->rank()); }

void ring_attention_forward(const Pass& pass, const Tensor& q_TD, const Tensor& k_TG, const Tensor& v_TG,
                            const Tensor& o_TD, const Tensor& lse_HB) {
  ArenaScope scope(*pass.ctx.scratch);
  const Ring ring(pass);
  const int64_t hc = q_TD.columns(), gc = k_TG.columns(), heads = hc / ring.head_size(), rows = ring.rows();
  const Tensor q = ring.balanced(q_TD);
  const Travelling keys_and_values(pass, ring, k_TG.dtype, 2 * gc);
  ring.balanced(ring.join(k_TG, v_TG), keys_and_values.at(0));
  Tensor o = pass.scratch(DType::f32, {rows, hc}, "ring attention sum"),
         part = pass.scratch(DType::f32, {rows, hc}, "ring attention part");
  Tensor lse = lse_HB ? lse_HB : pass.scratch(DType::f32, {heads, rows}, "ring attention logsumexp");
  Tensor part_lse = pass.scratch(DType::f32, {heads, rows}, "ring attention logsumexp");
  for (int step = 0; step < ring.steps(); step++) {
    TraceScope traced("ring step forward", "compute", "step", step);
    const Tensor kv = keys_and_values.at(step);
    ring.for_each_pair(step, [&](TokenRange queries, TokenRange keys, const VisibleKeys& visible,
                                 bool first) {
      const PairView pair(visible);
      const Tensor block = kv.slice_rows(keys.begin, keys.end);
      const Tensor sum = o.slice_rows(queries.begin, queries.end),
                   sum_lse = lse.slice_columns(queries.begin, queries.end);
      // The first result is the sum so far; the others are merged into it.
      const Tensor some = first ? sum : part.slice_rows(queries.begin, queries.end),
                   some_lse = first ? sum_lse : part_lse.slice_columns(queries.begin, queries.end);
      pass.ops().attention_forward(pass.ctx, {.q = q.slice_rows(queries.begin, queries.end),
                                              .k = block.slice_columns(0, gc),
                                              .v = block.slice_columns(gc, 2 * gc),
                                              .head_size = ring.head_size(),
                                              .scale = ring.scale(),
                                              .docs = pair.documents.view(),
                                              .key_begin = pair.begin,
                                              .key_count = pair.count,
                                              .o = some,
                                              .lse = some_lse});
      if (!first)
        pass.ops().attention_merge(
            pass.ctx,
            {.o = sum, .lse = sum_lse, .part = some, .part_lse = some_lse, .head_size = ring.head_size()});
    });
    if (step + 1 < ring.steps()) keys_and_values.move(step);
  }
  ring.contiguous(as_dtype(pass, o, o_TD.dtype, "ring attention result"), o_TD);
}

void ring_attention_backward(const Pass& pass, const Tensor& d_out, const Tensor& q_TD, const Tensor& k_TG,
                             const Tensor& v_TG, const Tensor& o_TD, const Tensor& lse_HB,
                             const Tensor& dq_TD, const Tensor& dk_TG, const Tensor& dv_TG) {
  ArenaScope scope(*pass.ctx.scratch);
  const Ring ring(pass);
  const int64_t hc = q_TD.columns(), gc = k_TG.columns(), heads = hc / ring.head_size(), rows = ring.rows();
  const Tensor q = ring.balanced(q_TD), o = ring.balanced(o_TD), d_o = ring.balanced(d_out);
  const Travelling keys_and_values(pass, ring, k_TG.dtype, 2 * gc);
  ring.balanced(ring.join(k_TG, v_TG), keys_and_values.at(0));
  Tensor delta = pass.scratch(DType::f32, {heads, rows}, "ring attention delta");
  pass.ops().attention_delta(pass.ctx, {.d_out = d_o, .o = o, .head_size = ring.head_size(), .delta = delta});
  Tensor dq = pass.scratch(DType::f32, {rows, hc}, "ring attention dq");
  const Travelling gradients(pass, ring, DType::f32, 2 * gc);
  clear(pass.ctx, dq);
  clear(pass.ctx, gradients.at(0));
  for (int step = 0; step < ring.steps(); step++) {
    TraceScope traced("ring step backward", "compute", "step", step);
    const Tensor kv = keys_and_values.at(step), dkv = gradients.at(step);
    ring.for_each_pair(step, [&](TokenRange queries, TokenRange keys, const VisibleKeys& visible, bool) {
      const PairView pair(visible);
      const Tensor block = kv.slice_rows(keys.begin, keys.end), dblock = dkv.slice_rows(keys.begin, keys.end);
      pass.ops().attention_backward(pass.ctx, {.d_out = d_o.slice_rows(queries.begin, queries.end),
                                               .q = q.slice_rows(queries.begin, queries.end),
                                               .k = block.slice_columns(0, gc),
                                               .v = block.slice_columns(gc, 2 * gc),
                                               .lse = lse_HB.slice_columns(queries.begin, queries.end),
                                               .head_size = ring.head_size(),
                                               .scale = ring.scale(),
                                               .docs = pair.documents.view(),
                                               .key_begin = pair.begin,
                                               .key_count = pair.count,
                                               .delta = delta.slice_columns(queries.begin, queries.end),
                                               .dq = dq.slice_rows(queries.begin, queries.end),
                                               .dk = dblock.slice_columns(0, gc),
                                               .dv = dblock.slice_columns(gc, 2 * gc),
                                               .accumulate = true});
    });
    if (step + 1 < ring.steps()) keys_and_values.move(step);
    gradients.move(step);  // also after the last step: then each block's gradient is home
  }
  ring.contiguous(as_dtype(pass, dq, dq_TD.dtype, "ring attention dq"), dq_TD);
  ArenaScope last(*pass.ctx.scratch);
  Tensor both = pass.scratch(dk_TG.dtype, {dk_TG.rows(), 2 * gc}, "ring attention dk and dv");
  ring.contiguous(as_dtype(pass, gradients.at(ring.steps()), dk_TG.dtype, "ring attention dk and dv"), both);
  pass.ops().scale_copy(pass.ctx, {.x = both.slice_columns(0, gc), .y = dk_TG});
  pass.ops().scale_copy(pass.ctx, {.x = both.slice_columns(gc, 2 * gc), .y = dv_TG});
}

}  // namespace jambalaya
