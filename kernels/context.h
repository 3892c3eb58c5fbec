// What every op is given: where to run, with which threads and which scratch memory.
#pragma once
#include "kernels/accelerator.h"
#include "kernels/arena.h"
#include "kernels/thread_pool.h"

namespace jambalaya {

class Ops;

/// One per rank. A CPU stream runs in order; a CUDA stream is a cudaStream_t.
struct Context {
  Ops* ops = nullptr;
  Device device = Device::cpu;
  ThreadPool* pool = nullptr;
  Arena* scratch = nullptr;            ///< an op takes what it needs and gives it back before it returns
  Accelerator* accelerator = nullptr;  ///< with Device::cuda
  void* stream = nullptr;              ///< with Device::cuda: where ops are enqueued; no op waits for it
};

}  // namespace jambalaya
