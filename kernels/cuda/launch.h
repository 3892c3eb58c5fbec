// How host code starts kernels. Kernels are ordinary templates of __global__ functions; they are started by
// launch() and never by <<<>>>, so that the same source compiles for the GPU and for the emulator that the
// tests run it in (tests/emulator).
#pragma once
#include <cuda_runtime.h>

#include <tuple>
#include <utility>

#include "kernels/context.h"
#include "kernels/error.h"

namespace jambalaya::cuda {

/// Throws Error(failed) naming the call when a CUDA function fails.
void check(cudaError_t code, const char* what);

inline cudaStream_t stream_of(const Context& ctx) { return static_cast<cudaStream_t>(ctx.stream); }

struct Shape {
  dim3 grid, block;
  size_t shared_bytes = 0;  ///< dynamic; see dynamic_shared()
};

/// Bytes of shared memory that a block can have (compute capability 9.0; 8.0 has 163 KiB).
constexpr size_t kMostShared = size_t(227) << 10;

/// True with JAMBALAYA_CUDA_BLOCKING=1: every launch waits for its end, so that a failure is told by the
/// kernel that caused it.
bool blocking();

inline int64_t div_up(int64_t n, int64_t d) { return (n + d - 1) / d; }

/// Enqueues `kernel` on the context's stream. Does nothing for an empty grid. Arguments are converted to the
/// kernel's parameters here and copied: pointers must be device pointers. `name` is told in errors.
template <class... Params, class... Args>
void launch(const Context& ctx, const char* name, void (*kernel)(Params...), const Shape& shape,
            Args&&... args) {
  static_assert(sizeof...(Params) == sizeof...(Args));
  if (int64_t(shape.grid.x) * shape.grid.y * shape.grid.z == 0) return;
  if (shape.shared_bytes > kMostShared)
    throw Error(Exit::usage,
                cat("CUDA kernel ", name, " needs ", shape.shared_bytes,
                    " bytes of shared memory for these shapes, a block has at most ", kMostShared,
                    ": use fewer states, experts or a smaller head size, or run.device = cpu"));
#ifdef JAMBALAYA_EMULATED_CUDA
  emulator::launch(stream_of(ctx), name, shape.grid, shape.block, shape.shared_bytes, kernel,
                   std::tuple<std::decay_t<Params>...>(std::forward<Args>(args)...));
#else
  const void* function = reinterpret_cast<const void*>(kernel);
  // Without being asked for, 48 KB are for both this and what the kernel has of its own (less than 8 KB in
  // kernels that take any here).
  if (shape.shared_bytes > 40 << 10)
    check(
        cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shape.shared_bytes)),
        name);
  std::tuple<std::decay_t<Params>...> values(std::forward<Args>(args)...);
  std::apply(
      [&](auto&... value) {
        void* pointers[] = {const_cast<void*>(static_cast<const void*>(&value))..., nullptr};
        check(
            cudaLaunchKernel(function, shape.grid, shape.block, pointers, shape.shared_bytes, stream_of(ctx)),
            name);
      },
      values);
#endif
  if (blocking()) check(cudaStreamSynchronize(stream_of(ctx)), name);
}

/// Blocks of a one-dimensional grid; larger ones than the hardware's 2^31 - 1 are a bug.
inline dim3 grid_of(int64_t blocks) {
  JAMBALAYA_CHECK(blocks <= 0x7fffffff, blocks, " blocks");
  return dim3(unsigned(blocks));
}

/// The dynamic shared memory of this block, 1024-byte aligned. In kernels only.
#if defined(JAMBALAYA_EMULATED_CUDA)
template <class T>
inline T* dynamic_shared() {
  return static_cast<T*>(emulator::dynamic_shared());
}
#elif defined(__CUDACC__)
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char jambalaya_dynamic_shared[];
  return reinterpret_cast<T*>(jambalaya_dynamic_shared);
}
#endif

}  // namespace jambalaya::cuda
