// What segments without tokens do to the scan's carried states.
#include "kernels/cuda/documents_cuda.h"
#include "kernels/cuda/scan.h"
#include "kernels/transfer.h"

namespace jambalaya::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void scan_pass_kernel(const int32_t* offsets, const float* from, float* to, int64_t size,
                                 int64_t segments) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= segments * size || offsets[i / size] != offsets[i / size + 1]) return;
  to[i] = from ? from[i] : 0.f;
}

void pass_state(const Context& ctx, const Tensor& from, const Tensor& to) {
  if (from)
    copy(ctx, from, to);
  else
    clear(ctx, to);
}

}  // namespace

void scan_pass_empty(const Context& ctx, const Documents& docs, const Tensor& from, const Tensor& to,
                     bool ends_only, int64_t edge) {
  if (!to) return;
  if (ends_only) {
    if (docs.tokens == 0)
      pass_state(ctx, from, to);
    else if (docs.offsets[edge] == docs.offsets[edge + 1])
      pass_state(ctx, {}, to);
    return;
  }
  bool any = false;
  for (int64_t s = 0; s < docs.count; s++) any = any || docs.offsets[s] == docs.offsets[s + 1];
  if (!any || from.data == to.data) return;
  const int64_t size = to.columns();
  const Documents there = device_documents(ctx, docs);
  launch(ctx, "scan_pass", scan_pass_kernel, {grid_of(div_up(docs.count * size, kThreads)), kThreads},
         there.device_offsets, from ? from.ptr<float>() : nullptr, to.ptr<float>(), size, docs.count);
}

}  // namespace jambalaya::cuda
