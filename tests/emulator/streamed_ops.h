// The emulated device's ops. They refuse tensors that a GPU could not reach (host memory that is not
// page-locked), then run the CUDA backend's kernels on fibres; or, with JAMBALAYA_EMULATED_OPS=cpu, the CPU
// backend's ops in the stream's order: hundreds of times faster, for tests of the host code above the ops.
//
// CPU ops read control arrays (Documents, key_begin, key_count) when their task runs; like the CUDA ops they
// take those in host memory as they are at the call.
//
// A head cut over ranks (HeadLoss::combine) calls collectives in the middle. A communicator belongs to the
// thread that computes and all ranks must call in one order, so they cannot be called from a task, which
// runs when and where somebody waits: that op waits for its stream and runs at the call. It is the one CPU op
// here that waits.
#pragma once
#include <memory>

#include "kernels/ops.h"

namespace emulator {

/// `kernels`: the CUDA backend; null: the CPU's ops in stream order.
std::unique_ptr<jambalaya::Ops> streamed_ops(std::unique_ptr<jambalaya::Ops> kernels);

}  // namespace emulator
