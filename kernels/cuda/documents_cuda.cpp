#include "kernels/cuda/documents_cuda.h"

#include "kernels/transfer.h"

namespace jambalaya::cuda {

namespace {
const int32_t* on_device(const Context& ctx, const int32_t* host, int64_t count) {
  const Tensor from = make_tensor(host, {count});
  const Tensor to = ctx.scratch->tensor(DType::i32, {count}, "documents");
  copy(ctx, from, to);
  return to.ptr<int32_t>();
}
}  // namespace

Documents device_documents(const Context& ctx, const Documents& docs) {
  Documents there = docs;
  if (!there.device_offsets) there.device_offsets = on_device(ctx, docs.offsets, docs.count + 1);
  if (!there.device_first_position)
    there.device_first_position = on_device(ctx, docs.first_position, docs.count);
  if (!there.device_segment_of) there.device_segment_of = on_device(ctx, docs.segment_of, docs.tokens);
  return there;
}

}  // namespace jambalaya::cuda
