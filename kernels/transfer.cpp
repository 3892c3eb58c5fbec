#include "kernels/transfer.h"

#include <cstring>

namespace jambalaya {

namespace {
int64_t pitch(const Tensor& t) { return t.row_stride * size_of(t.dtype); }
int64_t row_bytes(const Tensor& t) { return t.columns() * size_of(t.dtype); }
}  // namespace

void copy(const Context& ctx, const Tensor& from, const Tensor& to) {
  JAMBALAYA_CHECK(from.dtype == to.dtype && from.rows() == to.rows() && from.columns() == to.columns(),
                  "copy of ", from.describe(), " to ", to.describe());
  if (from.bytes() == 0 || from.data == to.data) return;
  const bool whole = from.packed() && to.packed();
  const int64_t rows = whole ? 1 : from.rows(), bytes = whole ? from.bytes() : row_bytes(from);
  if (ctx.device == Device::cuda) {
    ctx.accelerator->copy(to.data, whole ? bytes : pitch(to), from.data, whole ? bytes : pitch(from), bytes,
                          rows, ctx.stream);
    return;
  }
  for (int64_t r = 0; r < rows; r++)
    std::memmove(static_cast<char*>(to.data) + r * pitch(to),
                 static_cast<const char*>(from.data) + r * pitch(from), size_t(bytes));
}

void clear(const Context& ctx, const Tensor& x) {
  if (x.bytes() == 0) return;
  const bool whole = x.packed();
  const int64_t rows = whole ? 1 : x.rows(), bytes = whole ? x.bytes() : row_bytes(x);
  if (ctx.device == Device::cuda) {
    ctx.accelerator->fill(x.data, whole ? bytes : pitch(x), 0, bytes, rows, ctx.stream);
    return;
  }
  for (int64_t r = 0; r < rows; r++) std::memset(static_cast<char*>(x.data) + r * pitch(x), 0, size_t(bytes));
}

void synchronize(const Context& ctx) {
  if (ctx.device == Device::cuda) ctx.accelerator->synchronize(ctx.stream);
}

Context transfer_context(Accelerator* accelerator) {
  Context ctx;
  if (!accelerator) return ctx;
  ctx.device = Device::cuda;
  ctx.accelerator = accelerator;
  ctx.stream = accelerator->compute_stream();
  return ctx;
}

Tensor to_device(const Context& ctx, const Tensor& x, Arena& arena, const char* tag) {
  if (x.device == ctx.device || !x) return x;
  Tensor there = x;
  there.data = arena.take(x.bytes(), tag), there.device = ctx.device, there.row_stride = x.columns();
  copy(ctx, x, there);
  return there;
}

Tensor to_device(const Context& ctx, const Tensor& x, const char* tag) {
  if (x.device == ctx.device || !x) return x;
  return to_device(ctx, x, *ctx.scratch, tag);
}

}  // namespace jambalaya
