// CUDA kernels on a CPU: one fibre (a stack of its own) per CUDA thread, one block after another. A fibre
// runs until it must wait for others: at a barrier for its block, at a warp operation (shuffle, vote, matrix
// product) for the lanes of its mask. Which fibre goes on is drawn at random from a seed, so that code that
// relies on an order that CUDA does not promise gives other results under another seed
// (JAMBALAYA_EMULATOR_SEED).
//
// What is told as an error, with kernel and block: threads that wait for each other for ever, a barrier that
// some threads never reach because they have left, warp operations of different kinds under one mask, lanes
// read that take no part. What it cannot see: races within what one fibre does between two waits, memory
// ordering, bank conflicts, registers.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};

namespace emulator {

/// One asynchronous copy into shared memory that has been asked for and not yet done.
struct PendingCopy {
  void* to;
  const void* from;  ///< null: zeros
  int bytes, group;
};

enum class State : uint8_t { ready, at_barrier, in_warp_operation, left };

/// What a warp operation does once all its lanes are there: arguments[l] of lane l, null where it takes no
/// part.
using WarpFunction = void (*)(void* const* arguments);

struct Fibre {
  uint3 thread;
  unsigned number = 0;  ///< in its block
  State state = State::ready;
  unsigned mask = 0;                ///< of the warp operation it waits in
  WarpFunction function = nullptr;  ///< likewise
  void* argument = nullptr;
  int barrier_value = 0;  ///< what it brings to the barrier
  std::vector<PendingCopy> copies;
  int copy_group = 0;  ///< number of the group that is being filled
  void* stack_pointer = nullptr;
  void* sanitizer_stack = nullptr;  ///< AddressSanitizer's shadow of it
};

/// Of the block that runs on this host thread.
struct Block {
  uint3 index;
  dim3 size, grid;
  int barrier_sum = 0, barrier_all = 1;  ///< of the values at the last barrier
};
extern thread_local Fibre* running;
extern thread_local Block block;

/// Runs all blocks; returns when the last thread has left.
void run(const char* kernel, dim3 grid, dim3 threads, size_t shared_bytes, const std::function<void()>& body);
void* dynamic_shared();

/// Waits for all threads of the block; afterwards block.barrier_sum and barrier_all tell of their values.
void barrier(int value = 0);
/// Waits for the lanes of `mask` (those that have left do not count), then `function` runs once for all.
void warp_operation(unsigned mask, WarpFunction function, void* argument);
/// Ends the process with the kernel, the block and this message.
[[noreturn]] void fail(const char* message);

}  // namespace emulator
