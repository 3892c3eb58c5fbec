// Every kernel at the shapes of Jamba-v0.1 with what the device cannot do faster. One file for each room of
// the menu (kernels/ops.h) makes its cases; kernel_cases() puts them together.
//
// Legend: T tokens, D width, E inner channels, N states, R rank of the step size, H and G query and key heads
// of C, F feed-forward width, X experts of which K, V vocabulary. Bytes are counted once for each tensor that
// a call must read or write.
#pragma once
#include <functional>
#include <memory>
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
/// Makes the tensors in the device's memory (the caller holds a scope on it) and returns the call.
using Prepare = std::function<std::function<void()>(BenchDevice&)>;
struct KernelCase {
  std::string name;
  std::string shape;
  Work work;
  Prepare prepare;
};

/// Of the model whose kernels are timed: Jamba-v0.1.
struct Widths {
  int64_t D = 4096, E = 8192, N = 16, R = 256, H = 32, G = 8, C = 128, F = 14336, X = 16, K = 2, V = 65536;
  int64_t parameters = 100'000'000;  ///< of one call of the optimizer
  int64_t cached = 4096;             ///< tokens that each generated sequence has behind it
  /// A toy's, so that every case runs on an emulated device in seconds. Its times mean nothing.
  static Widths toy() { return {64, 128, 16, 8, 4, 2, 16, 96, 4, 2, 256, 10000, 64}; }
};

/// T tokens in documents of one length; what the rooms share.
class CaseList {
 public:
  /// `tokens` is a multiple of `length`.
  CaseList(const Widths& widths, int64_t tokens, int64_t length);

  const Widths w;
  const int64_t T, length;

  void add(const std::string& name, const std::string& shape, const Work& work, Prepare prepare) {
    cases_.push_back({name, shape, work, std::move(prepare)});
  }
  /// y[m, n] = x[m, k] w[n, k]^T, as a layer's forward has it.
  void product(const std::string& name, int64_t m, int64_t n, int64_t k, DType operands = DType::bf16,
               DType result = DType::bf16);
  /// A layer's backward: dx[m, k] = dy[m, n] w[n, k].
  void input_gradient(const std::string& name, int64_t m, int64_t n, int64_t k);
  /// dw[n, k] += dy[m, n]^T x[m, k]; fp32 sums into the main gradient.
  void weight_gradient(const std::string& name, int64_t m, int64_t n, int64_t k);

  /// The stream's documents, their arrays also in the device's memory, as a model's pass uploads them.
  Documents documents(BenchDevice& device) const { return device.upload(documents_->view()); }
  std::vector<KernelCase> take() { return std::move(cases_); }

 private:
  std::shared_ptr<const DocumentsBuffer> documents_;
  std::vector<KernelCase> cases_;
};

/// One op again and again, with the same arguments.
template <class Op>
std::function<void()> calls(BenchDevice& d, void (Ops::*run)(Context&, const Op&), const Op& op) {
  return [&d, run, op] { (d.ops().*run)(d.context(), op); };
}

// What the cases capture refers to the list: it must outlive them.
void add_products(CaseList&);
void add_state_space(CaseList&);
void add_attention(CaseList&);
void add_pointwise(CaseList&);
void add_experts(CaseList&);
void add_vocabulary(CaseList&);
void add_optimizer(CaseList&);
void add_generation(CaseList&);

/// All of them. `tokens` in documents of `length` tokens; 8 x 4096 is the shape that floors are usually given
/// for.
std::vector<KernelCase> kernel_cases(const Widths& widths, int64_t tokens, int64_t length);

}  // namespace jambalaya::bench
