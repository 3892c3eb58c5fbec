// The two ends of the model. Embedding and head are cut over the tensor ranks by rows of the vocabulary: a
// rank looks up and scores its own ids. Every rank sees all tokens of the context shard here; the residual
// stream on either side holds its own rows (parallel/regions.h).
#include "kernels/trace.h"
#include "model/stack.h"

namespace jambalaya {

void Jamba::Impl::embed(const Pass& pass, const Tensor& ids, const Tensor& h) {
  TraceScope traced("embedding forward", "compute");
  ArenaScope scope(*pass.ctx.scratch);
  Tensor partial = regions.partial(pass.ctx, h, pass.tokens());
  // A token's row lies on one rank, the others add zeros: the sum is that row, to the bit.
  pass.ops().embedding_forward(pass.ctx, {.ids = ids,
                                          .table = parameters.value(embedding),
                                          .y = partial,
                                          .first_id = regions.share(config.vocab_size).begin,
                                          .vocabulary = config.vocab_size});
  regions.leave(pass.ctx, partial, h);
}

void Jamba::Impl::embed_backward(const Pass& pass, const Tensor& ids, const Tensor& dh) {
  TraceScope traced("embedding backward", "compute");
  ArenaScope scope(*pass.ctx.scratch);
  pass.ops().embedding_backward(pass.ctx, {.ids = ids,
                                           .dy = regions.leave_backward(pass.ctx, dh, pass.tokens()),
                                           .dtable = parameters.gradient(embedding),
                                           .skip_id = config.pad_token_id,
                                           .first_id = regions.share(config.vocab_size).begin,
                                           .vocabulary = config.vocab_size});
}

void Jamba::Impl::head_loss(const Pass& pass, const Tensor& y, HeadLoss op, const Tensor& dy) {
  TraceScope traced("head and loss", "compute");
  ArenaScope scope(*pass.ctx.scratch);
  op.h = regions.enter(pass.ctx, y, pass.tokens());
  op.w = parameters.compute(head);
  op.first_id = regions.share(config.vocab_size).begin;
  op.vocabulary = config.vocab_size;
  op.parts = regions.tensors();
  if (op.parts > 1)
    op.combine = [this](Context&, const Tensor& own, const Tensor& all) {
      regions.mesh().tensor().all_gather(own, all);
    };
  if (dy) {
    op.dh = regions.partial(pass.ctx, dy, pass.tokens());
    op.dw = parameters.gradient(head);
  }
  pass.ops().head_loss(pass.ctx, op);
  if (dy) regions.enter_backward(pass.ctx, op.dh, dy);
}

void Jamba::Impl::logits_of(const Pass& pass, const Tensor& y, const Tensor& logits) {
  if (regions.tensors() == 1) return linear(pass, head, y, logits);
  ArenaScope scope(*pass.ctx.scratch);
  Tensor part = pass.scratch(DType::f32, {y.rows(), parameters.compute(head).rows()}, "logits");
  linear(pass, head, y, part);
  regions.gather_columns(pass.ctx, part, logits);
}

}  // namespace jambalaya
