#include "parallel/exchange.h"

#include <limits>

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
  const Counts counts = exchange_counts(ctx, mesh, offsets);
  const std::vector<int32_t>& own = counts.own;
  JAMBALAYA_CHECK(own.back() == rows, "offsets of other than ", rows, " rows");
  for (int q = 0; q < group.size(); q++) {
    const auto first = size_t(q / slices_ * here);
    send_starts_.push_back(own[first]);
    send_rows_.push_back(own[first + size_t(here)] - own[first]);
  }
  order_arrivals(counts.arriving, here);
  if (slices_ > 1) place_summands();
  upload(ctx, keep);
}

/// Each rank is told of its own experts alone: block q [X/x + 1] is the offsets of rank q's experts and the
/// end of the last. The slices of an expert get the same block each.
ExpertRoute::Counts ExpertRoute::exchange_counts(Context& ctx, Mesh& mesh, const Tensor& offsets) const {
  const int64_t ranks = ranks_->size(), parts = ranks / slices_, all = offsets.rows() - 1, here = all / parts,
                block = here + 1;
  ArenaScope scope(*ctx.scratch);
  const Tensor out = ctx.scratch->tensor(DType::i32, {parts, slices_ * block}, "expert exchange");
  Tensor in = ctx.scratch->tensor(DType::i32, {ranks, block}, "expert exchange");
  const Tensor begins = make_tensor(offsets.data, DType::i32, {parts, here}, offsets.device);
  const Tensor ends = make_tensor(offsets.address(1), DType::i32, {parts, here}, offsets.device);
  for (int s = 0; s < slices_; s++) {
    const int64_t at = s * block;
    copy(ctx, begins.slice_columns(0, 1), out.slice_columns(at, at + 1));
    copy(ctx, ends, out.slice_columns(at + 1, at + block));
  }
  ranks_->all_to_all(out, in);

  auto* told = static_cast<const int32_t*>(in.data);
  auto* own = static_cast<const int32_t*>(offsets.data);
  if (ctx.device == Device::cuda) {
    auto* host = static_cast<int32_t*>(mesh.host_reads().take(in.bytes() + offsets.bytes()));
    copy(ctx, in, make_tensor(host, {ranks, block}));
    copy(ctx, offsets, make_tensor(host + in.numel(), {all + 1}));
    synchronize(ctx);
    told = host, own = host + in.numel();
  }
  Counts counts{{own, own + all + 1}, {}};
  for (int64_t q = 0; q < ranks; q++)
    for (int64_t e = 0; e < here; e++)
      counts.arriving.push_back(told[q * block + e + 1] - told[q * block + e]);
  return counts;
}

/// Rows come in order of ranks, from each sorted by expert; the products want them sorted by expert alone
/// (within an expert: in order of ranks). counts [ranks, experts]: the rows of each rank for each of them.
void ExpertRoute::order_arrivals(const std::vector<int32_t>& counts, int64_t experts) {
  const int ranks = ranks_->size();
  auto rows = [&](int q, int64_t e) { return counts[size_t(q * experts + e)]; };
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
