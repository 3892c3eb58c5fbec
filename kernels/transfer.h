// Bytes between host and device memory, or within either, in the order of a context's stream.
#pragma once
#include <vector>

#include "kernels/context.h"

namespace jambalaya {

/// to <- from: one dtype and shape, rows may be strided, memory of any device. With Device::cuda the copy is
/// enqueued; pageable host memory that is read may be changed at once, page-locked memory and host memory
/// that is written only after synchronize().
void copy(const Context& ctx, const Tensor& from, const Tensor& to);
/// All bytes zero; rows may be strided. Enqueued with Device::cuda.
void clear(const Context& ctx, const Tensor& x);
/// Waits until all that was enqueued is done. Nothing to do with Device::cpu.
void synchronize(const Context& ctx);

/// A context that can only move bytes: on the compute stream of `accelerator`, or on the host where it is
/// null. For tensors that are made or read outside of a pass.
Context transfer_context(Accelerator* accelerator);

/// x itself where it lies in the context's memory, else a copy of it in `arena`.
Tensor to_device(const Context& ctx, const Tensor& x, Arena& arena, const char* tag);
/// As above, in scratch (the caller holds an ArenaScope).
Tensor to_device(const Context& ctx, const Tensor& x, const char* tag);
/// A host vector in the context's memory: a view of it with Device::cpu, else a copy in `arena`.
template <class T>
Tensor to_device(const Context& ctx, const std::vector<T>& values, Arena& arena, const char* tag) {
  const Tensor host = make_tensor(values.data(), {int64_t(values.size())});
  if (ctx.device == Device::cpu) return host;
  const Tensor there = arena.tensor(host.dtype, {host.numel()}, tag);
  copy(ctx, host, there);
  return there;
}

/// The elements of x on the host, packed. Waits.
template <class T>
std::vector<T> to_host(const Context& ctx, const Tensor& x) {
  std::vector<T> values(size_t(x.numel()));
  Tensor host = x;
  host.data = values.data(), host.device = Device::cpu, host.row_stride = x.columns();
  JAMBALAYA_CHECK(x.dtype == dtype_of<T>::value, "tensor is ", x.describe());
  copy(ctx, x, host);
  synchronize(ctx);
  return values;
}

}  // namespace jambalaya
