// The room moe: router, stable sort of the choices by expert, and the moves of rows to the experts and back.
// No op scatters with additions: sums over the K choices are gathered in the order of k.
#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/ops_cpu.h"
#include "kernels/op_checks.h"

namespace jambalaya {
namespace {

constexpr int64_t kRouterTokens = 128;  // tokens per partial sum of the router's statistics
constexpr int64_t kSortTokens = 1024;   // tokens per histogram of the sort
constexpr int64_t kMoveElements = 1 << 15;

/// Rows per chunk of work over rows of `width` elements.
int64_t rows_per_chunk(int64_t width) {
  return std::max<int64_t>(1, kMoveElements / std::max<int64_t>(1, width));
}

int64_t chunks_of(int64_t n, int64_t grain) { return (n + grain - 1) / grain; }

}  // namespace

void CpuOps::router_forward(Context& ctx, const RouterForward& op) {
  check_op(op);
  const int64_t tokens = op.logits.rows(), experts = op.logits.columns(), k = op.k;
  ArenaScope scope(*ctx.scratch);
  const int64_t chunks = chunks_of(tokens, kRouterTokens);
  float* keys = ctx.scratch->array<float>(chunks * experts, "router");
  int32_t* counts = ctx.scratch->array<int32_t>(chunks * experts, "router");
  float* prob_sums = ctx.scratch->array<float>(chunks * experts, "router");
  double* lse_squares = ctx.scratch->array<double>(chunks, "router");
  ctx.pool->run_range(tokens, kRouterTokens, [&](int64_t begin, int64_t end) {
    const int64_t c = begin / kRouterTokens;
    simd_.moe.router_forward({op.logits.ptr<float>(), experts, k, begin, end, op.renormalize,
                              op.probs.ptr<float>(), op.expert.ptr<int32_t>(), op.weight.ptr<float>(),
                              op.lse.ptr<float>(), keys + c * experts, counts + c * experts,
                              prob_sums + c * experts, lse_squares + c});
  });
  float* stats = op.stats.ptr<float>();
  for (int64_t x = 0; x < experts; x++) {
    int64_t count = 0;
    double prob = 0;
    for (int64_t c = 0; c < chunks; c++) {
      count += counts[c * experts + x];
      prob += double(prob_sums[c * experts + x]);
    }
    stats[x] = float(count);
    stats[experts + x] = float(prob);
  }
  double lse_square = 0;
  for (int64_t c = 0; c < chunks; c++) lse_square += lse_squares[c];
  stats[2 * experts] = float(lse_square);
}

void CpuOps::router_backward(Context& ctx, const RouterBackward& op) {
  check_op(op);
  const int64_t tokens = op.probs.rows(), experts = op.probs.columns(), k = op.expert.columns();
  ctx.pool->run_range(tokens, kRouterTokens, [&](int64_t begin, int64_t end) {
    simd_.moe.router_backward({op.probs.ptr<float>(), op.expert.ptr<int32_t>(), op.weight.ptr<float>(),
                               op.lse.ptr<float>(), op.dweight.ptr<float>(),
                               op.dprob ? op.dprob.ptr<float>() : nullptr, experts, k, begin, end,
                               op.renormalize, op.z_scale, op.dlogits.ptr<float>()});
  });
}

void CpuOps::sort_by_expert(Context& ctx, const SortByExpert& op) {
  check_op(op);
  const int64_t tokens = op.expert.rows(), k = op.expert.columns(), experts = op.experts;
  const int32_t* expert = op.expert.ptr<int32_t>();
  int32_t *offsets = op.offsets.ptr<int32_t>(), *row_of = op.row_of.ptr<int32_t>(),
          *token_of = op.token_of.ptr<int32_t>();

  ArenaScope scope(*ctx.scratch);
  const int64_t chunks = chunks_of(tokens, kSortTokens);
  int32_t* next = ctx.scratch->array<int32_t>(chunks * experts, "sort");  // histograms, then next free rows
  uint8_t* bad = ctx.scratch->array<uint8_t>(chunks, "sort");
  ctx.pool->run_range(tokens, kSortTokens, [&](int64_t begin, int64_t end) {
    int32_t* histogram = next + begin / kSortTokens * experts;
    std::fill_n(histogram, experts, 0);
    uint8_t outside = 0;
    for (int64_t i = begin * k; i < end * k; i++) {
      if (uint32_t(expert[i]) < uint64_t(experts))
        histogram[expert[i]]++;
      else
        outside = 1;
    }
    bad[begin / kSortTokens] = outside;
  });
  for (int64_t c = 0; c < chunks; c++) JAMBALAYA_CHECK(!bad[c], "an expert outside [0, ", experts, ")");

  int32_t row = 0;
  for (int64_t x = 0; x < experts; x++) {
    offsets[x] = row;
    for (int64_t c = 0; c < chunks; c++) {
      int32_t count = next[c * experts + x];
      next[c * experts + x] = row;
      row += count;
    }
  }
  offsets[experts] = row;
  ctx.pool->run_range(tokens, kSortTokens, [&](int64_t begin, int64_t end) {
    int32_t* free = next + begin / kSortTokens * experts;
    for (int64_t t = begin; t < end; t++) {
      for (int64_t i = t * k; i < (t + 1) * k; i++) {
        row_of[i] = free[expert[i]]++;
        token_of[row_of[i]] = int32_t(t);
      }
    }
  });
}

void CpuOps::gather_rows(Context& ctx, const GatherRows& op) {
  check_op(op);
  const int64_t rows = op.token_of.rows(), width = op.x.columns();
  const int32_t* token_of = op.token_of.ptr<int32_t>();
  const size_t bytes = size_t(width * size_of(op.x.dtype));
  ctx.pool->run_range(rows, rows_per_chunk(width), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      std::memcpy(op.y.address(r * op.y.row_stride), op.x.address(token_of[r] * op.x.row_stride), bytes);
    }
  });
}

void CpuOps::gather_rows_backward(Context& ctx, const GatherRowsBackward& op) {
  check_op(op);
  const int64_t tokens = op.row_of.rows(), k = op.row_of.columns(), width = op.dy.columns();
  auto sum_rows = simd_.moe.sum_rows[act_kind(op.dy)][act_kind(op.dx)];
  ctx.pool->run_range(tokens, rows_per_chunk(width * k), [&](int64_t begin, int64_t end) {
    sum_rows({op.dy.data, op.dy.row_stride, op.row_of.ptr<int32_t>(), nullptr, op.dx.data, op.dx.row_stride,
              width, k, begin, end, op.accumulate});
  });
}

void CpuOps::combine_forward(Context& ctx, const CombineForward& op) {
  check_op(op);
  const int64_t tokens = op.row_of.rows(), k = op.row_of.columns(), width = op.x.columns();
  auto sum_rows = simd_.moe.sum_rows[act_kind(op.x)][act_kind(op.y)];
  ctx.pool->run_range(tokens, rows_per_chunk(width * k), [&](int64_t begin, int64_t end) {
    sum_rows({op.x.data, op.x.row_stride, op.row_of.ptr<int32_t>(), op.weight.ptr<float>(), op.y.data,
              op.y.row_stride, width, k, begin, end, false});
  });
}

void CpuOps::combine_backward(Context& ctx, const CombineBackward& op) {
  check_op(op);
  const int64_t tokens = op.row_of.rows(), k = op.row_of.columns(), width = op.x.columns();
  auto spread_rows = simd_.moe.spread_rows[act_kind(op.dy)][act_kind(op.x)];
  ctx.pool->run_range(tokens, rows_per_chunk(width * k), [&](int64_t begin, int64_t end) {
    spread_rows({op.dy.data, op.dy.row_stride, op.x.data, op.x.row_stride, op.row_of.ptr<int32_t>(),
                 op.weight.ptr<float>(), op.dx.data, op.dx.row_stride, op.dweight.ptr<float>(), width, k,
                 begin, end});
  });
}

}  // namespace jambalaya
