#include "model/context.h"

#include "kernels/transfer.h"

namespace jambalaya {

namespace {

/// Calls f(j, token) for every row j of rank's halo that holds a token of its first document: the token's
/// number in the whole stream.
template <class F>
void for_each_halo_token(const ContextShard& shard, int rank, int64_t rows, const F& f) {
  const StreamPart& part = shard.part(rank);
  if (!part.continues_left()) return;
  for (int64_t j = 0; j < rows; j++) {
    const int64_t token = shard.range(rank).begin - rows + j;
    if (token >= part.starts[0]) f(j, token);
  }
}

}  // namespace

void halo_from_left(const Pass& pass, const Tensor& x, const Tensor& halo) {
  const ContextShard& shard = *pass.context;
  const int64_t e = x.columns(), rows = halo.shape[1], t = x.rows(), have = std::min(t, rows);
  ArenaScope scope(*pass.ctx.scratch);
  Tensor tail = pass.scratch(DType::f32, {rows, e}, "conv tail");
  Tensor tails = pass.scratch(DType::f32, {shard.ranks(), rows, e}, "conv tails");
  clear(pass.ctx, tail);
  clear(pass.ctx, halo);
  if (have)
    pass.ops().scale_copy(pass.ctx,
                          {.x = x.slice_rows(t - have, t), .y = tail.slice_rows(rows - have, rows)});
  pass.regions.mesh().context().all_gather(tail, tails);
  for_each_halo_token(shard, shard.rank(), rows, [&](int64_t j, int64_t token) {
    int owner = shard.rank() - 1;
    while (shard.range(owner).begin > token) owner--;
    const int64_t row = rows - (shard.range(owner).end - token);
    pass.ops().scale_copy(
        pass.ctx, {.x = tails.at(owner).slice_rows(row, row + 1), .y = halo.at(0).slice_rows(j, j + 1)});
  });
}

void halo_backward(const Pass& pass, const Tensor& d_halo, const Tensor& dx) {
  const ContextShard& shard = *pass.context;
  const int64_t rows = d_halo.shape[1], e = d_halo.shape[2];
  ArenaScope scope(*pass.ctx.scratch);
  Tensor all = pass.scratch(DType::f32, {shard.ranks(), rows, e}, "conv halo gradients");
  pass.regions.mesh().context().all_gather(d_halo.at(0), all);
  const TokenRange own = shard.range(shard.rank());
  for (int right = shard.rank() + 1; right < shard.ranks(); right++)
    for_each_halo_token(shard, right, rows, [&](int64_t j, int64_t token) {
      if (token < own.begin || token >= own.end) return;
      const int64_t row = token - own.begin;
      pass.ops().scale_copy(
          pass.ctx,
          {.x = all.at(right).slice_rows(j, j + 1), .y = dx.slice_rows(row, row + 1), .accumulate = true});
    });
}

void StateCarry::from_left(const Pass& pass, const ScanCarryForward& summary) {
  const ContextShard& shard = *pass.context;
  const int64_t e = summary.a_log.shape[0], n = summary.a_log.shape[1];
  maps = pass.keep(DType::f32, {shard.ranks(), 2, n, e}, "scan carry");
  h_in = pass.keep(DType::f32, {1, n, e}, "scan carry");
  ArenaScope scope(*pass.ctx.scratch);
  Tensor own = pass.scratch(DType::f32, {2, n, e}, "scan carry");
  clear(pass.ctx, own);
  if (pass.tokens()) {
    ScanCarryForward op = summary;
    op.h_end = own.at(0);
    op.decay = own.at(1);
    pass.ops().scan_carry_forward(pass.ctx, op);
  }
  pass.regions.mesh().context().all_gather(own, maps);
  clear(pass.ctx, h_in);
  const Tensor state = h_in.at(0);
  for (int r = 0; r < shard.rank(); r++) {
    const StreamPart& part = shard.part(r);
    if (part.lengths.empty()) continue;  // no token, nothing changes
    const Tensor end = maps.at(r).at(0);
    if (part.passes_through())
      pass.ops().multiply_add(pass.ctx, {.a = maps.at(r).at(1), .x = state, .b = end, .y = state});
    else
      pass.ops().scale_copy(pass.ctx, {.x = end, .y = state});
  }
  if (!shard.part(shard.rank()).continues_left()) clear(pass.ctx, h_in);
}

Tensor StateCarry::from_right(const Pass& pass, const ScanCarryBackward& summary) const {
  const ContextShard& shard = *pass.context;
  const int64_t e = summary.a_log.shape[0], n = summary.a_log.shape[1];
  Tensor g = pass.scratch(DType::f32, {1, n, e}, "scan carry gradient");
  ArenaScope scope(*pass.ctx.scratch);
  Tensor own = pass.scratch(DType::f32, {n, e}, "scan carry gradient"),
         all = pass.scratch(DType::f32, {shard.ranks(), n, e}, "scan carry gradients");
  clear(pass.ctx, own);
  if (shard.part(shard.rank()).continues_left()) {
    ScanCarryBackward op = summary;
    op.dh0 = own;
    pass.ops().scan_carry_backward(pass.ctx, op);
  }
  pass.regions.mesh().context().all_gather(own, all);
  clear(pass.ctx, g);
  const Tensor state = g.at(0);
  for (int r = shard.ranks() - 1; r > shard.rank(); r--) {
    const StreamPart& part = shard.part(r);
    if (part.lengths.empty()) continue;
    if (part.passes_through())
      pass.ops().multiply_add(pass.ctx, {.a = maps.at(r).at(1), .x = state, .b = all.at(r), .y = state});
    else  // zero where no document continues from the left
      pass.ops().scale_copy(pass.ctx, {.x = all.at(r), .y = state});
  }
  if (!shard.part(shard.rank()).open_end) clear(pass.ctx, g);
  return g;
}

}  // namespace jambalaya
