#include "parallel/exchange.h"

#include <limits>

#include "kernels/ops.h"
#include "kernels/trace.h"

namespace jambalaya {

ExpertRoute::ExpertRoute(Mesh& mesh, Arena& keep, const Tensor& offsets)
    : home_(offsets.ptr<int32_t>()[offsets.rows() - 1]), arrived_(home_), offsets_(offsets) {
  Communicator& group = mesh.experts();
  if (group.size() == 1) return;
  ranks_ = &group;
  slices_ = mesh.layout().expert_tensor;
  const int64_t all = offsets.rows() - 1, here = all * slices_ / group.size();
  const int32_t* begin = offsets.ptr<int32_t>();

  std::vector<int32_t> own(static_cast<size_t>(all)), counts(static_cast<size_t>(all * group.size()));
  for (int64_t e = 0; e < all; e++) own[size_t(e)] = begin[e + 1] - begin[e];
  group.all_gather(make_tensor(own.data(), {all}), make_tensor(counts.data(), {all * group.size()}));

  for (int q = 0; q < group.size(); q++) {
    const int64_t first = q / slices_ * here;
    send_starts_.push_back(begin[first]);
    send_rows_.push_back(begin[first + here] - begin[first]);
  }
  order_arrivals(keep, counts, group.rank() / slices_ * here, here);
  if (slices_ == 1) return;
  // Partial results come back in order of ranks: all rows of one expert rank from its slice 0, then slice 1.
  summands_ = keep.tensor(DType::i32, {home_, slices_}, "expert exchange");
  int64_t at = 0;
  for (int q = 0; q < group.size(); q++)
    for (int64_t i = 0; i < send_rows_[size_t(q)]; i++)
      summands_.ptr<int32_t>()[(send_starts_[size_t(q)] + i) * slices_ + q % slices_] = int32_t(at++);
}

/// Rows come in order of ranks, from each sorted by expert; the products want them sorted by expert alone
/// (within an expert: in order of ranks). counts [ranks, X]: the rows of each rank for each expert.
void ExpertRoute::order_arrivals(Arena& keep, const std::vector<int32_t>& counts, int64_t first,
                                 int64_t experts) {
  const int ranks = ranks_->size();
  const int64_t all = int64_t(counts.size()) / ranks;
  auto rows = [&](int q, int64_t e) { return counts[size_t(q * all + first + e)]; };
  offsets_ = keep.tensor(DType::i32, {experts + 1}, "expert exchange");
  int32_t* offset = offsets_.ptr<int32_t>();
  offset[0] = 0;
  arrived_ = 0;
  receive_rows_.assign(size_t(ranks), 0);
  for (int64_t e = 0; e < experts; e++) {
    for (int q = 0; q < ranks; q++) receive_rows_[size_t(q)] += rows(q, e), arrived_ += rows(q, e);
    JAMBALAYA_CHECK(arrived_ <= std::numeric_limits<int32_t>::max(), arrived_, " rows at one expert rank");
    offset[e + 1] = int32_t(arrived_);
  }
  by_expert_ = keep.tensor(DType::i32, {arrived_}, "expert exchange");
  by_rank_ = keep.tensor(DType::i32, {arrived_}, "expert exchange");
  std::vector<int32_t> next(offset, offset + experts);
  int32_t arrival = 0;
  for (int q = 0; q < ranks; q++)
    for (int64_t e = 0; e < experts; e++)
      for (int32_t i = 0; i < rows(q, e); i++) {
        const int32_t sorted = next[size_t(e)]++;
        by_expert_.ptr<int32_t>()[sorted] = arrival;
        by_rank_.ptr<int32_t>()[arrival++] = sorted;
      }
}

Tensor ExpertRoute::dispatch(Context& ctx, const Tensor& rows, Arena& arena) const {
  if (alone()) return rows;
  TraceScope traced("expert exchange", "exchange");
  Tensor sorted = arena.tensor(rows.dtype, {arrived_, rows.columns()}, "experts in");
  ArenaScope scope(*ctx.scratch);
  Tensor arrivals = ctx.scratch->tensor(rows.dtype, {arrived_, rows.columns()}, "expert exchange");
  ranks_->all_to_all(rows, send_starts_, send_rows_, arrivals, receive_rows_);
  ctx.ops->gather_rows(ctx, {arrivals, by_expert_, sorted});
  return sorted;
}

Tensor ExpertRoute::partial(Context& ctx, const Tensor& sum) const {
  return alone() ? sum : ctx.scratch->tensor(sum.dtype, {arrived_, sum.columns()}, "experts partial sums");
}

void ExpertRoute::collect(Context& ctx, const Tensor& partial, const Tensor& sum) const {
  if (alone()) return;
  TraceScope traced("expert exchange", "exchange");
  ArenaScope scope(*ctx.scratch);
  const int64_t d = sum.columns();
  Tensor leaving = ctx.scratch->tensor(sum.dtype, {arrived_, d}, "expert exchange");
  ctx.ops->gather_rows(ctx, {partial, by_rank_, leaving});
  // Without slices the results come in as they went out, sorted by expert.
  Tensor back = slices_ == 1 ? sum : ctx.scratch->tensor(sum.dtype, {home_ * slices_, d}, "expert exchange");
  ranks_->all_to_all(leaving, receive_rows_, back, send_rows_);
  if (slices_ > 1) ctx.ops->gather_rows_backward(ctx, {.dy = back, .row_of = summands_, .dx = sum});
}

}  // namespace jambalaya
