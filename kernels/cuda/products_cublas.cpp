// Matrix products by cuBLASLt (NVIDIA cuBLAS documentation, chapter 3). Its matrices are column-major; a
// row-major matrix of `ld` elements a row is a column-major one of that leading dimension, transposed. So
// c = op(a) op(b) is asked for as c^T = op(b)^T op(a)^T: b goes in first, a second.
//
// Repeatability. The algorithm for a product is asked for once and kept: the library's heuristic decides by
// shape, dtype, row stride and alignment alone. Sums that are split over K must be put together by a kernel
// of their own, in fp32 (CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE): the scheme "in place" adds to C through
// counters, and the scheme "output type" rounds partial sums to bf16. The workspace is the caller's, never
// one that the library shares between streams. The bits still depend on the GPU's model and the library's
// version, and on JAMBALAYA_SM_TARGET.
//
// Environment: JAMBALAYA_TF32=1 lets products of f32 round their operands to tf32 (10 bits of fraction; off:
// exact fp32 multiply-adds). JAMBALAYA_SM_TARGET=n plans products for n multiprocessors, which leaves the
// others to communication.
#include <cublasLt.h>

#include <algorithm>
#include <bit>
#include <compare>
#include <cstdlib>
#include <map>
#include <mutex>
#include <numeric>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/products.h"

namespace jambalaya::cuda {
namespace {

constexpr size_t kWorkspace = size_t(64) << 20;  // bytes that an algorithm may ask for
constexpr int64_t kAlignment = 16;               // bytes; no kernel asks for more
using ExpertKind = GroupedGemm::Kind;

std::string describe(const Gemm& op) {
  return cat(op.a.describe(), op.transpose_a ? "^T" : "", " times ", op.b.describe(),
             op.transpose_b ? "^T" : "", " to ", op.c.describe(), " (row strides ", op.a.row_stride, ", ",
             op.b.row_stride, ", ", op.c.row_stride, ")");
}

/// Throws Error(failed) naming the call and, where there is one, the product.
void check(cublasStatus_t status, const char* call, const Gemm* op = nullptr) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(Exit::failed, cat("cuBLASLt: ", call, op ? " for " + describe(*op) : "", ": ",
                                cublasLtGetStatusName(status), " (", cublasLtGetStatusString(status), ")"));
}

int number_in(const char* variable) {
  const char* value = std::getenv(variable);
  if (!value || !*value) return 0;
  char* end = nullptr;
  const long number = std::strtol(value, &end, 10);
  if (*end || number < 0 || number > 1 << 20)
    throw Error(Exit::usage, cat(variable, "=", value, ": must be a whole number from 0 (off)"));
  return int(number);
}

/// One operand in the library's terms: column-major, so its rows are the tensor's columns.
struct Operand {
  DType dtype = DType::f32;
  int64_t rows = 0, columns = 0, ld = 0;
  /// Bytes, at most kAlignment, that divide the address of every row: the same for any slice of rows.
  int64_t alignment = 0;
  auto operator<=>(const Operand&) const = default;

  explicit Operand(const Tensor& t)
      : dtype(t.dtype),
        rows(t.columns()),
        columns(t.rows()),
        ld(std::max(t.row_stride, t.columns())),  // the stride of a single row may be anything
        alignment(std::gcd(std::gcd(int64_t(reinterpret_cast<uintptr_t>(t.data) % kAlignment), kAlignment),
                           ld * size_of(t.dtype))) {}
  cudaDataType_t type() const { return dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF; }
};

/// What an algorithm is chosen by. C's old contents are read or not by one and the same algorithm.
struct Problem {
  Operand first, second, c;  ///< op.b, op.a, op.c
  bool transpose_first, transpose_second;
  bool split_k;  ///< sums over K may be cut into parts
  auto operator<=>(const Problem&) const = default;

  explicit Problem(const Gemm& op, bool may_split = true)
      : first(op.b),
        second(op.a),
        c(op.c),
        transpose_first(op.transpose_b),
        transpose_second(op.transpose_a),
        split_k(may_split) {}
};

/// Descriptors of one call, in memory of its own.
struct Call {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t first, second, c;

  Call(const Problem& p, cublasComputeType_t compute, int32_t multiprocessors) {
    check(cublasLtMatmulDescInit(&operation, compute, CUDA_R_32F), "cublasLtMatmulDescInit");
    auto set = [this](cublasLtMatmulDescAttributes_t attribute, auto value) {
      check(cublasLtMatmulDescSetAttribute(&operation, attribute, &value, sizeof value),
            "cublasLtMatmulDescSetAttribute");
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_first ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_second ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (multiprocessors > 0) set(CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, multiprocessors);
    lay_out(first, p.first), lay_out(second, p.second), lay_out(c, p.c);
  }

 private:
  static void lay_out(cublasLtMatrixLayoutOpaque_t& layout, const Operand& x) {
    check(cublasLtMatrixLayoutInit(&layout, x.type(), uint64_t(x.rows), uint64_t(x.columns), x.ld),
          "cublasLtMatrixLayoutInit");
  }
};

struct Algorithm {
  cublasLtMatmulAlgo_t algo;
  size_t workspace;  ///< bytes
};

class CublasProducts final : public Products {
 public:
  CublasProducts() : multiprocessors_(number_in("JAMBALAYA_SM_TARGET")) {
    const size_t version = cublasLtGetVersion();
    name_ = cat("cuBLASLt ", version / 10000, ".", version / 100 % 100);
    if (number_in("JAMBALAYA_TF32")) f32_compute_ = CUBLAS_COMPUTE_32F_FAST_TF32;
    check(cublasLtCreate(&handle_), "cublasLtCreate");
  }
  ~CublasProducts() override { cublasLtDestroy(handle_); }
  const char* name() const override { return name_.c_str(); }

  void gemm(Context& ctx, const Gemm& op) override;
  bool experts(Context& ctx, const GroupedGemm& op) override;

 private:
  cublasComputeType_t compute_of(const Problem& p) const {
    return p.first.dtype == DType::f32 ? f32_compute_ : CUBLAS_COMPUTE_32F;
  }
  Algorithm algorithm(const Problem& p, const Gemm& op);
  void multiply(Context& ctx, const Gemm& op, const Problem& problem, Call& call,
                const Algorithm& algorithm) const;
  void through_f32(Context& ctx, const Gemm& op);
  /// Whether the algorithm can do that problem; sets its workspace.
  bool takes(const Problem& p, Algorithm& algorithm) const;

  std::string name_;
  int32_t multiprocessors_;
  cublasComputeType_t f32_compute_ = CUBLAS_COMPUTE_32F;
  cublasLtHandle_t handle_ = nullptr;
  std::mutex mutex_;  ///< of the map: two threads compute and communicate
  std::map<Problem, Algorithm> algorithms_;
};

/// The library's first choice for a problem; the same one for the life of the process.
Algorithm CublasProducts::algorithm(const Problem& p, const Gemm& op) {
  std::lock_guard lock(mutex_);
  if (auto known = algorithms_.find(p); known != algorithms_.end()) return known->second;
  cublasLtMatmulPreferenceOpaque_t preference;
  check(cublasLtMatmulPreferenceInit(&preference), "cublasLtMatmulPreferenceInit");
  auto set = [&preference](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof value),
          "cublasLtMatmulPreferenceSetAttribute");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(kWorkspace));
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      uint32_t(p.split_k ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE : CUBLASLT_REDUCTION_SCHEME_NONE));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, uint32_t(p.first.alignment));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, uint32_t(p.second.alignment));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, uint32_t(p.c.alignment));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, uint32_t(p.c.alignment));
  Call call(p, compute_of(p), multiprocessors_);
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle_, &call.operation, &call.first, &call.second,
                                                         &call.c, &call.c, &preference, 1, &result, &found);
  if (status == CUBLAS_STATUS_SUCCESS) status = found ? result.state : CUBLAS_STATUS_NOT_SUPPORTED;
  check(status, "cublasLtMatmulAlgoGetHeuristic", &op);
  return algorithms_.emplace(p, Algorithm{result.algo, result.workspaceSize}).first->second;
}

void CublasProducts::multiply(Context& ctx, const Gemm& op, const Problem& problem, Call& call,
                              const Algorithm& algorithm) const {
  JAMBALAYA_CHECK(problem.c.rows && problem.c.columns, describe(op));
  ArenaScope scope(*ctx.scratch);
  void* workspace =
      algorithm.workspace ? ctx.scratch->take(int64_t(algorithm.workspace), "gemm workspace") : nullptr;
  const float alpha = 1, beta = op.accumulate ? 1 : 0;
  check(cublasLtMatmul(handle_, &call.operation, &alpha, op.b.data, &call.first, op.a.data, &call.second,
                       &beta, op.c.data, &call.c, op.c.data, &call.c, &algorithm.algo, workspace,
                       algorithm.workspace, stream_of(ctx)),
        "cublasLtMatmul", &op);
  if (blocking()) cuda::check(cudaStreamSynchronize(stream_of(ctx)), "cublasLtMatmul");
}

/// The library has no products of f32 that end in bf16: sums in scratch memory, then one rounding.
void CublasProducts::through_f32(Context& ctx, const Gemm& op) {
  ArenaScope scope(*ctx.scratch);
  Gemm sums = op;
  sums.c = ctx.scratch->tensor(DType::f32, {op.c.rows(), op.c.columns()}, "gemm sums");
  sums.accumulate = false;
  gemm(ctx, sums);
  ctx.ops->scale_copy(ctx, {.x = sums.c, .y = op.c, .accumulate = op.accumulate});
}

void CublasProducts::gemm(Context& ctx, const Gemm& op) {
  if (!op.c.rows() || !op.c.columns()) return;
  if (!op.a.numel()) {  // an empty sum
    if (!op.accumulate)
      cuda::check(cudaMemset2DAsync(
                      op.c.data, size_t(std::max(op.c.row_stride, op.c.columns()) * size_of(op.c.dtype)), 0,
                      size_t(op.c.columns() * size_of(op.c.dtype)), size_t(op.c.rows()), stream_of(ctx)),
                  "cudaMemset2DAsync");
    return;
  }
  if (op.a.dtype == DType::f32 && op.c.dtype == DType::bf16) return through_f32(ctx, op);
  const Problem problem(op);
  Call call(problem, compute_of(problem), multiprocessors_);
  multiply(ctx, op, problem, call, algorithm(problem, op));
}

/// Rows that an expert is taken to have when the algorithm is chosen: the mean, rounded up to a power of two.
int64_t planned_rows(const GroupedGemm& op) {
  return int64_t(std::bit_ceil(uint64_t(std::max<int64_t>(1, op.a.rows() / op.w.rows()))));
}

/// The same product for an expert with that many rows.
Problem with_rows(Problem p, ExpertKind kind, int64_t rows) {
  p.second.columns = rows;
  (kind == ExpertKind::weight_gradient ? p.first : p.c).columns = rows;
  return p;
}

bool CublasProducts::takes(const Problem& p, Algorithm& algorithm) const {
  Call call(p, compute_of(p), multiprocessors_);
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t status = cublasLtMatmulAlgoCheck(handle_, &call.operation, &call.first, &call.second,
                                                        &call.c, &call.c, &algorithm.algo, &result);
  if (status != CUBLAS_STATUS_SUCCESS || result.workspaceSize > kWorkspace) return false;
  algorithm.workspace = result.workspaceSize;
  return true;
}

bool CublasProducts::experts(Context& ctx, const GroupedGemm& op) {
  if (op.a.dtype == DType::f32 && op.y.dtype == DType::bf16 && op.kind != ExpertKind::weight_gradient)
    return false;
  struct Part {
    Gemm product;
    Problem problem;
    Algorithm algorithm;
  };
  std::vector<Part> parts;
  for (int64_t x = 0; x < op.w.rows(); x++) {
    const int64_t begin = op.host_offsets[x], end = op.host_offsets[x + 1];
    if (begin == end) continue;
    const Gemm product = expert_product(op, x, begin, end);
    // Sums over K must not be cut by the number of rows either, so they are not cut at all.
    const Problem problem(product, false);
    Algorithm chosen = algorithm(with_rows(problem, op.kind, planned_rows(op)), product);
    if (parts.empty())
      for (const int64_t rows : {int64_t(1), op.a.rows()})
        if (!takes(with_rows(problem, op.kind, rows), chosen)) return false;
    if (!takes(problem, chosen)) return false;
    parts.push_back({product, problem, chosen});
  }
  for (const Part& part : parts) {
    Call call(part.problem, compute_of(part.problem), multiprocessors_);
    multiply(ctx, part.product, part.problem, call, part.algorithm);
  }
  return true;
}

}  // namespace

std::unique_ptr<Products> make_products(const AcceleratorProperties&) {
  return std::make_unique<CublasProducts>();
}

}  // namespace jambalaya::cuda
