#include "parallel/regions.h"

#include "kernels/ops.h"

namespace jambalaya {

std::vector<int64_t> Regions::shares(int64_t n) const {
  std::vector<int64_t> counts;
  for (int r = 0; r < tensors(); r++) counts.push_back(share_of(n, r).count());
  return counts;
}

Tensor Regions::gather_rows(Context& ctx, const Tensor& x, const std::vector<int64_t>& rows) {
  if (tensors() == 1) return x;
  int64_t all = 0;
  for (int64_t n : rows) all += n;
  Tensor out = ctx.scratch->tensor(x.dtype, {all, x.columns()}, "gathered rows");
  mesh_.tensor().all_gather_rows(x, out, rows);
  return out;
}

Tensor Regions::enter(Context& ctx, const Tensor& x, int64_t tokens) {
  return splits_rows() ? gather_rows(ctx, x, shares(tokens)) : x;
}

Tensor Regions::partial(Context& ctx, const Tensor& sum, int64_t tokens) {
  return splits_rows() ? ctx.scratch->tensor(sum.dtype, {tokens, sum.columns()}, "partial sums") : sum;
}

void Regions::sum(Context&, const Tensor& partial, const Tensor& sum) {
  if (tensors() == 1) return;
  if (splits_rows())
    mesh_.tensor().reduce_scatter_rows(partial, sum, shares(partial.rows()));
  else
    mesh_.tensor().all_reduce(sum);
}

void Regions::spread_routed(Context&, const Tensor& y) {
  if (tensors() == 1 || splits_rows()) return;
  const Span own = share(y.rows());
  mesh_.tensor().all_gather_rows(y.slice_rows(own.begin, own.end), y, shares(y.rows()));
}

void Regions::gather_columns(Context& ctx, const Tensor& part, const Tensor& whole) {
  const int64_t n = whole.rows(), v = whole.columns();
  ArenaScope scope(*ctx.scratch);
  std::vector<int64_t> elements = shares(v);
  for (int64_t& e : elements) e *= n;
  Tensor own = part;
  own.rank = 2;
  own.shape = {part.numel(), 1};
  own.row_stride = 1;
  const Tensor all = ctx.scratch->tensor(part.dtype, {n * v, 1}, "gathered columns");
  mesh_.tensor().all_gather_rows(own, all, elements);
  int64_t at = 0;
  for (int r = 0; r < tensors(); r++) {
    const Span columns = share_of(v, r);
    const Tensor theirs = make_tensor(all.address(at), part.dtype, {n, columns.count()}, all.device);
    if (theirs.numel())
      ctx.ops->scale_copy(ctx, {.x = theirs, .y = whole.slice_columns(columns.begin, columns.end)});
    at += theirs.numel();
  }
}

int Regions::owner_of(int64_t t, int64_t tokens) const {
  int r = 0;
  while (share_of(tokens, r).end <= t) r++;
  return r;
}

}  // namespace jambalaya
