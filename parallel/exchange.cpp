#include "parallel/exchange.h"

#include <limits>
#include <numeric>

#include "kernels/ops.h"
#include "kernels/trace.h"
#include "kernels/transfer.h"

namespace jambalaya {

ExpertRoute::ExpertRoute(Context& ctx, Mesh& mesh, Arena& keep, const Tensor& offsets, int64_t rows)
    : home_(rows), arrived_(rows), offsets_(offsets) {
  Communicator& group = mesh.experts();
  if (group.size() == 1) return;
  ranks_ = &group;
  slices_ = mesh.layout().expert_tensor;
  const int64_t all = offsets.rows() - 1, here = all * slices_ / group.size();
  const std::vector<int32_t> counts = gather_counts(ctx, mesh, offsets);
  const int32_t* own = counts.data() + group.rank() * all;
  JAMBALAYA_CHECK(std::accumulate(own, own + all, int64_t(0)) == rows, "offsets of other than ", rows,
                  " rows");
  for (int q = 0; q < group.size(); q++) {
    const int64_t first = q / slices_ * here;
    send_starts_.push_back(std::accumulate(own, own + first, int64_t(0)));
    send_rows_.push_back(std::accumulate(own + first, own + first + here, int64_t(0)));
  }
  order_arrivals(counts, group.rank() / slices_ * here, here);
  if (slices_ > 1) place_summands();
  upload(ctx, keep);
}

std::vector<int32_t> ExpertRoute::gather_counts(Context& ctx, Mesh& mesh, const Tensor& offsets) const {
  const int64_t ranks = ranks_->size(), n = offsets.rows() - 1;
  ArenaScope scope(*ctx.scratch);
  const Tensor all = ctx.scratch->tensor(DType::i32, {ranks, n}, "expert exchange");
  ranks_->all_gather(offsets.slice_rows(1, n + 1), all);
  const auto* end = static_cast<const int32_t*>(all.data);
  if (ctx.device == Device::cuda) {
    void* host = mesh.host_reads().take(all.bytes());
    copy(ctx, all, make_tensor(host, DType::i32, {ranks, n}));
    synchronize(ctx);
    end = static_cast<const int32_t*>(host);
  }
  std::vector<int32_t> counts;
  for (int64_t q = 0; q < ranks; q++)
    for (int64_t e = 0; e < n; e++) counts.push_back(end[q * n + e] - (e ? end[q * n + e - 1] : 0));
  return counts;
}

/// Rows come in order of ranks, from each sorted by expert; the products want them sorted by expert alone
/// (within an expert: in order of ranks). counts [ranks, X]: the rows of each rank for each expert.
void ExpertRoute::order_arrivals(const std::vector<int32_t>& counts, int64_t first, int64_t experts) {
  const int ranks = ranks_->size();
  const int64_t all = int64_t(counts.size()) / ranks;
  auto rows = [&](int q, int64_t e) { return counts[size_t(q * all + first + e)]; };
  host_offsets_.assign(1, 0);
  arrived_ = 0;
  receive_rows_.assign(size_t(ranks), 0);
  for (int64_t e = 0; e < experts; e++) {
    for (int q = 0; q < ranks; q++) receive_rows_[size_t(q)] += rows(q, e), arrived_ += rows(q, e);
    JAMBALAYA_CHECK(arrived_ <= std::numeric_limits<int32_t>::max(), arrived_, " rows at one expert rank");
    host_offsets_.push_back(int32_t(arrived_));
  }
  maps_.resize(size_t(2 * arrived_));
  int32_t *by_expert = maps_.data(), *by_rank = by_expert + arrived_;
  std::vector<int32_t> next(host_offsets_.begin(), host_offsets_.end() - 1);
  int32_t arrival = 0;
  for (int q = 0; q < ranks; q++)
    for (int64_t e = 0; e < experts; e++)
      for (int32_t i = 0; i < rows(q, e); i++) {
        const int32_t sorted = next[size_t(e)]++;
        by_expert[sorted] = arrival;
        by_rank[arrival++] = sorted;
      }
}

/// Partial results come back in order of ranks: all rows of one expert rank from its slice 0, then slice 1.
void ExpertRoute::place_summands() {
  const size_t begin = maps_.size();
  maps_.resize(begin + size_t(home_ * slices_));
  int32_t* summands = maps_.data() + begin;
  int32_t at = 0;
  for (size_t q = 0; q < send_rows_.size(); q++)
    for (int64_t i = 0; i < send_rows_[q]; i++)
      summands[(send_starts_[q] + i) * slices_ + int64_t(q) % slices_] = at++;
}

/// All maps in one copy.
void ExpertRoute::upload(Context& ctx, Arena& keep) {
  const int64_t experts = int64_t(host_offsets_.size()) - 1;
  maps_.insert(maps_.end(), host_offsets_.begin(), host_offsets_.end());
  const auto n = int64_t(maps_.size());
  const Tensor maps = keep.tensor(DType::i32, {n}, "expert exchange");
  copy(ctx, make_tensor(maps_.data(), {n}), maps);
  maps_ = {};
  by_expert_ = maps.slice_rows(0, arrived_);
  by_rank_ = maps.slice_rows(arrived_, 2 * arrived_);
  offsets_ = maps.slice_rows(n - experts - 1, n);
  if (slices_ == 1) return;
  summands_ = maps.slice_rows(2 * arrived_, n - experts - 1);
  summands_.rank = 2, summands_.shape = {home_, slices_}, summands_.row_stride = slices_;
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
