// Every kernel at the shapes of Jamba-v0.1 (width 4096, inner width 8192, 16 states, 32/8 heads of 128, 14336
// feed-forward, 16 experts of which 2, 65536 tokens of vocabulary) with what the device cannot do faster.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "scripts/benchmarks/bench_device.h"

namespace jambalaya::bench {

/// What one call must at least do.
struct Work {
  double bytes = 0;         ///< read from and written to memory
  double flops = 0;         ///< on the tensor cores
  double special = 0;       ///< exponentials, logarithms, reciprocals (special function units)
  double instructions = 0;  ///< lane-instructions that no fusion can save
};
struct KernelCase {
  std::string name;
  std::string shape;
  Work work;
  /// Makes the tensors in the device's memory (the caller holds a scope on it) and returns the call.
  std::function<std::function<void()>(BenchDevice&)> prepare;
};

/// `tokens` in documents of `length` tokens; 8 x 4096 is the shape that floors are usually given for.
std::vector<KernelCase> kernel_cases(int64_t tokens, int64_t length);

}  // namespace jambalaya::bench
