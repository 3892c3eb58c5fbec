// The two ends of the model: rows of the embedding table, and head with cross-entropy.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/ops_cpu.h"
#include "kernels/op_checks.h"

namespace jambalaya {
namespace {

/// Rows [first, first + rows) of a vocabulary of `whole` ids.
struct Part {
  int64_t first, rows, whole;

  Part(int64_t first_id, int64_t part_rows, int64_t vocabulary)
      : first(first_id), rows(part_rows), whole(vocabulary ? vocabulary : part_rows) {}
  /// Row of an id, -1 when another part has it.
  int64_t row_of(int64_t id) const { return id >= first && id < first + rows ? id - first : -1; }
};

/// `ids` lie in the vocabulary; returns them.
const int32_t* check_ids(const Tensor& ids, int64_t vocabulary) {
  const int32_t* id = ids.ptr<int32_t>();
  for (int64_t t = 0; t < ids.rows(); t++)
    JAMBALAYA_CHECK(id[t] >= 0 && id[t] < vocabulary, "id ", id[t], " of token ", t, ", vocabulary ",
                    vocabulary);
  return id;
}

}  // namespace

void CpuOps::embedding_forward(Context& ctx, const EmbeddingForward& args) {
  check_op(args);
  const Tensor &table = args.table, &y = args.y;
  const Part part(args.first_id, table.rows(), args.vocabulary);
  const int32_t* ids = check_ids(args.ids, part.whole);
  const VocabKernels& k = simd_.vocab;
  const bool wide = table.dtype == DType::f32, to_wide = y.dtype == DType::f32;
  auto* look_up = wide ? (to_wide ? k.look_up_f32_to_f32 : k.look_up_f32_to_bf16)
                       : (to_wide ? k.look_up_bf16_to_f32 : k.look_up_bf16_to_bf16);
  ctx.pool->run_range(y.rows(), 64, [&](int64_t begin, int64_t end) {
    look_up({table.data, table.row_stride, part.rows, part.first, ids + begin, end - begin, y.columns(),
             y.address(begin * y.row_stride), y.row_stride});
  });
}

namespace {

/// The tokens whose ids the part has, sorted by row, stably (a counting sort): those of row v are
/// tokens[first[v]] ... tokens[first[v + 1] - 1].
struct TokensByRow {
  int32_t* first;     ///< [rows + 1]
  int32_t* tokens;    ///< [count]
  int64_t count = 0;  ///< how many there are

  TokensByRow(Arena& scratch, const int32_t* ids, int64_t all, const Part& part)
      : first(scratch.array<int32_t>(part.rows + 2, "embedding.first")),
        tokens(scratch.array<int32_t>(all, "embedding.tokens")) {
    // Counted two places up, so that placing the tokens below leaves each row's first place behind.
    std::fill(first, first + part.rows + 2, 0);
    for (int64_t t = 0; t < all; t++)
      if (const int64_t v = part.row_of(ids[t]); v >= 0) first[v + 2]++, count++;
    for (int64_t v = 1; v <= part.rows; v++) first[v + 1] += first[v];
    for (int64_t t = 0; t < all; t++)
      if (const int64_t v = part.row_of(ids[t]); v >= 0) tokens[first[v + 1]++] = int32_t(t);
  }
};

}  // namespace

void CpuOps::embedding_backward(Context& ctx, const EmbeddingBackward& args) {
  check_op(args);
  const Tensor &dy = args.dy, &dtable = args.dtable;
  const int64_t tokens = args.ids.rows(), width = dtable.columns();
  const Part part(args.first_id, dtable.rows(), args.vocabulary);
  const int32_t* ids = check_ids(args.ids, part.whole);
  if (tokens == 0) return;
  ArenaScope scope(*ctx.scratch);
  const TokensByRow sorted(*ctx.scratch, ids, tokens, part);
  auto* sum_rows = dy.dtype == DType::f32 ? simd_.vocab.sum_rows_f32 : simd_.vocab.sum_rows_bf16;
  // A chunk owns the rows whose tokens start in its range of the sorted order.
  ctx.pool->run_range(sorted.count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end;) {
      const int64_t id = ids[sorted.tokens[i]], row = id - part.first;
      const int64_t first = sorted.first[row], last = sorted.first[row + 1];
      if (first == i && id != args.skip_id)
        sum_rows({dy.data, dy.row_stride, sorted.tokens + first, last - first, width,
                  dtable.ptr<float>() + row * dtable.row_stride});
      i = last;
    }
  });
}

// ---- head and cross-entropy ------------------------------------------------------------------------------

namespace {

/// Tokens whose logits exist at a time: as many as fit in 64 MiB of fp32, but at least 128, so that the
/// products stay efficient and dW is not read and written too often, and at most 1024.
int64_t tokens_together(int64_t vocabulary) {
  return std::clamp<int64_t>((int64_t(64) << 20) / (4 * std::max<int64_t>(vocabulary, 1)), 128, 1024) / 16 *
         16;
}

/// What a part of the vocabulary knows of one token's softmax: the four numbers that HeadLoss::combine
/// exchanges. A part without rows has largest -inf and sum 0, one without the target target_logit -inf.
struct Statistics {
  float largest, sum, target_logit;
  float correct;  ///< 1: the target is the first of the largest
};
static_assert(sizeof(Statistics) == 4 * sizeof(float));

/// Up to `room` counted tokens: their numbers, what the parts know of each, and what their losses are.
struct Counted {
  int32_t* token;
  double *nll, *lse;
  Statistics *own, *all;  ///< [count], [parts, count]; the same memory where there is nothing to combine
  int64_t count = 0, parts;

  Counted(Arena& scratch, int64_t room, const HeadLoss& a)
      : token(scratch.array<int32_t>(room, "head.token")),
        nll(scratch.array<double>(room, "head.nll")),
        lse(scratch.array<double>(room, "head.lse")),
        own(scratch.array<Statistics>(room, "head.statistics")),
        all(a.combine ? scratch.array<Statistics>(room * a.parts, "head.statistics") : own),
        parts(a.parts) {}
  /// Takes the next counted tokens from `t` on; returns where it stopped.
  int64_t fill(const int32_t* targets, int64_t t, int64_t tokens, int64_t room, int64_t vocabulary) {
    for (count = 0; t < tokens && count < room; t++)
      if (targets[t] >= 0) {
        JAMBALAYA_CHECK(targets[t] < vocabulary, "target ", targets[t], " of token ", t, ", vocabulary ",
                        vocabulary);
        token[count++] = int32_t(t);
      }
    return t;
  }
  bool contiguous() const { return count == 0 || token[count - 1] - token[0] == count - 1; }
};

/// Copies rows token[i] of x to rows i of y (or back).
void copy_rows(Context& ctx, const Tensor& x, const Tensor& y, const Counted& counted, bool back) {
  const size_t bytes = size_t(x.columns() * size_of(x.dtype));
  ctx.pool->run_range(counted.count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      void *at = x.address(counted.token[i] * x.row_stride), *packed = y.address(i * y.row_stride);
      std::memcpy(back ? at : packed, back ? packed : at, bytes);
    }
  });
}

void clear_rows(Context& ctx, const Tensor& x) {
  ctx.pool->run_range(x.rows(), 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      std::memset(x.address(i * x.row_stride), 0, size_t(x.columns() * size_of(x.dtype)));
  });
}

/// One token's softmax over all parts.
struct Softmax {
  double largest, sum;  ///< sum of exp(logit - largest)
  double target_logit;
  bool correct;
};

/// Parts are taken in their order: the same bits on every rank, and the lowest of equal ids wins.
Softmax merge(const Counted& counted, int64_t i) {
  const Statistics& first = counted.all[i];
  Softmax whole{first.largest, 0, first.target_logit, first.correct != 0};
  for (int64_t p = 1; p < counted.parts; p++) {
    const Statistics& part = counted.all[p * counted.count + i];
    if (double(part.largest) > whole.largest) whole.largest = part.largest, whole.correct = part.correct != 0;
    whole.target_logit = std::max(whole.target_logit, double(part.target_logit));
  }
  for (int64_t p = 0; p < counted.parts; p++) {
    const Statistics& part = counted.all[p * counted.count + i];
    whole.sum += double(part.sum) * std::exp(double(part.largest) - whole.largest);
  }
  return whole;
}

/// Losses of the counted tokens from their logits [count, rows of the part], which become the gradient's rows
/// (see LogitGradientRow).
void losses(Context& ctx, const VocabKernels& kernels, const HeadLoss& a, const Part& part, float* logits,
            const Counted& counted) {
  const int32_t* targets = a.targets.ptr<int32_t>();
  auto* gradient = a.h.dtype == DType::f32 ? kernels.logit_gradient_f32 : kernels.logit_gradient_bf16;
  auto look = [&](int64_t i) {
    const int64_t target = part.row_of(targets[counted.token[i]]);
    const SoftmaxResult r = kernels.softmax_row({logits + i * part.rows, part.rows, target, bool(a.dh)});
    counted.own[i] = {r.largest, r.sum, r.target_logit, r.correct ? 1.0f : 0.0f};
  };
  auto finish = [&](int64_t i) {
    const int64_t token = counted.token[i];
    const Softmax whole = merge(counted, i);
    const double log_sum = std::log(whole.sum);
    counted.lse[i] = whole.largest + log_sum;
    counted.nll[i] = (whole.largest - whole.target_logit) + log_sum;
    if (a.nll) a.nll.ptr<float>()[token] = float(counted.nll[i]);
    if (a.correct) a.correct.ptr<uint8_t>()[token] = whole.correct;
    if (!a.dh) return;
    // The row holds exp(logit - the part's largest).
    const double shift = std::exp(double(counted.own[i].largest) - whole.largest);
    const double factor = (double(a.scale) + 2 * double(a.z_scale) * counted.lse[i]) / whole.sum * shift;
    gradient({logits + i * part.rows, part.rows, part.row_of(targets[token]), float(factor), a.scale});
  };
  auto each = [&](auto&& f) {
    ctx.pool->run_range(counted.count, 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) f(i);
    });
  };
  if (!a.combine) return each([&](int64_t i) { look(i), finish(i); });  // while the row is in the cache
  each(look);
  a.combine(ctx, make_tensor(&counted.own->largest, {counted.count, 4}),
            make_tensor(&counted.all->largest, {counted.parts, counted.count, 4}));
  each(finish);
}

}  // namespace

void CpuOps::head_loss(Context& ctx, const HeadLoss& args) {
  check_op(args);
  const int64_t tokens = args.h.rows(), width = args.h.columns();
  const Part part(args.first_id, args.w.rows(), args.vocabulary);
  const int32_t* targets = args.targets.ptr<int32_t>();
  if (args.nll) std::fill_n(args.nll.ptr<float>(), tokens, 0.0f);
  if (args.correct) std::fill_n(args.correct.ptr<uint8_t>(), tokens, uint8_t(0));

  ArenaScope scope(*ctx.scratch);
  // By the whole vocabulary, so that all parts cut the tokens alike.
  const int64_t room = std::min(tokens, tokens_together(part.whole));
  Counted counted(*ctx.scratch, room, args);
  Tensor all_logits = ctx.scratch->tensor(DType::f32, {room, part.rows}, "head.logits");
  // Counted tokens with ignored ones between them are gathered, so that ignored tokens cost nothing and
  // contribute exactly nothing, whatever their hidden state holds.
  Tensor gathered = ctx.scratch->tensor(args.h.dtype, {room, width}, "head.gathered");
  for (int64_t begin = 0, end = 0; begin < tokens; begin = end) {
    end = counted.fill(targets, begin, tokens, room, part.whole);
    const int64_t n = counted.count;
    if (args.dh && n < end - begin) clear_rows(ctx, args.dh.slice_rows(begin, end));
    if (n == 0) continue;
    Tensor h = gathered.slice_rows(0, n), dh = h;
    if (counted.contiguous()) {
      h = args.h.slice_rows(counted.token[0], counted.token[0] + n);
      if (args.dh) dh = args.dh.slice_rows(counted.token[0], counted.token[0] + n);
    } else {
      copy_rows(ctx, args.h, gathered, counted, false);
    }
    const Tensor logits = all_logits.slice_rows(0, n);
    gemm(ctx, {.a = h, .b = args.w, .c = logits, .transpose_b = true});
    losses(ctx, simd_.vocab, args, part, logits.ptr<float>(), counted);
    double* sums = args.loss_sum.ptr<double>();
    for (int64_t i = 0; i < n; i++) sums[0] += counted.nll[i], sums[1] += counted.lse[i] * counted.lse[i];
    if (!args.dh) continue;
    Tensor dlogits = make_tensor(logits.data, args.h.dtype, {n, part.rows});
    dlogits.row_stride = part.rows * (4 / size_of(args.h.dtype));
    gemm(ctx, {.a = dlogits, .b = h, .c = args.dw, .transpose_a = true, .accumulate = true});
    gemm(ctx,
         {.a = dlogits, .b = args.w, .c = dh});  // after dW: the gathered rows give way to their gradient
    if (!counted.contiguous()) copy_rows(ctx, args.dh, gathered, counted, true);
  }
}

}  // namespace jambalaya
