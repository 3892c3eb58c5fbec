#include "tests/emulator/fake_cublaslt.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/cuda/launch.h"
#include "kernels/tensor.h"

namespace jambalaya::cuda {

// Of ops_cuda.cpp, which would bring all kernels.
void check(cudaError_t code, const char* what) {
  if (code != cudaSuccess) throw Error(Exit::failed, what);
}
bool blocking() { return false; }

}  // namespace jambalaya::cuda

namespace fake_cublaslt {
namespace {

using jambalaya::bf16;

Record the_record;
int64_t first_refused = 1, last_refused = 0;
bool find_nothing = false;

struct Layout {
  cudaDataType type;
  int64_t rows, columns, ld;
};
struct Operation {
  cublasComputeType_t compute;
  cublasOperation_t a = CUBLAS_OP_N, b = CUBLAS_OP_N;
  int32_t multiprocessors = 0;
};
struct Preference {
  uint64_t workspace = 0;
  uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_MASK, a = 256, b = 256, c = 256, d = 256;
};
struct Algorithm {
  int number;
  uint32_t a, b, c;  ///< alignments
  uint64_t workspace;
};

template <class T>
T get(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <class T, class Opaque>
void put(Opaque* to, const T& value) {
  static_assert(sizeof(T) <= sizeof(Opaque));
  std::memcpy(to, &value, sizeof value);
}
void require(bool met, const char* rule) {
  if (!met) throw std::logic_error(std::string("cuBLASLt's rules: ") + rule);
}
bool divides(uint32_t bytes, const void* address) {
  return reinterpret_cast<uintptr_t>(address) % bytes == 0;
}

double element(const Layout& l, const void* data, int64_t row, int64_t column) {
  const int64_t at = row + column * l.ld;
  if (l.type == CUDA_R_32F) return double(static_cast<const float*>(data)[at]);
  return double(to_float(static_cast<const bf16*>(data)[at]));
}

struct Shapes {
  Layout a, b, c;
  int64_t m, n, k;
};
Shapes shapes_of(const Operation& op, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                 cublasLtMatrixLayout_t c) {
  Shapes s{get<Layout>(a), get<Layout>(b), get<Layout>(c), 0, 0, 0};
  for (const Layout& l : {s.a, s.b, s.c}) {
    require(l.rows > 0 && l.columns > 0, "no matrix is empty");
    require(l.ld >= l.rows, "a leading dimension is at least the rows");
  }
  s.m = s.c.rows, s.n = s.c.columns;
  s.k = op.a == CUBLAS_OP_T ? s.a.rows : s.a.columns;
  require((op.a == CUBLAS_OP_T ? s.a.columns : s.a.rows) == s.m, "rows of op(A) are rows of C");
  require((op.b == CUBLAS_OP_T ? s.b.columns : s.b.rows) == s.k, "rows of op(B) are columns of op(A)");
  require((op.b == CUBLAS_OP_T ? s.b.rows : s.b.columns) == s.n, "columns of op(B) are columns of C");
  require(s.a.type == s.b.type && (s.c.type == CUDA_R_32F || s.a.type == CUDA_R_16BF),
          "types: f32 gives f32, bf16 gives f32 or bf16");
  return s;
}

}  // namespace

Record& record() { return the_record; }
void clear() {
  the_record = {};
  refuse_between(1, 0);
}
void refuse_between(int64_t first, int64_t last) { first_refused = first, last_refused = last; }
void find_none() { find_nothing = true; }

}  // namespace fake_cublaslt

using namespace fake_cublaslt;

extern "C" {

cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height, cudaStream_t) {
  for (size_t i = 0; i < height; i++) std::memset(static_cast<char*>(to) + i * pitch, value, width);
  return cudaSuccess;
}

size_t cublasLtGetVersion() { return 130100; }
const char* cublasLtGetStatusName(cublasStatus_t) { return "CUBLAS_STATUS"; }
const char* cublasLtGetStatusString(cublasStatus_t) { return "of the fake library"; }
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  static int one;
  *handle = reinterpret_cast<cublasLtHandle_t>(&one);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t, cudaDataType type,
                                                 uint64_t rows, uint64_t columns, int64_t ld) {
  put(layout, Layout{type, int64_t(rows), int64_t(columns), ld});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t desc, size_t, cublasComputeType_t compute,
                                               cudaDataType_t scale) {
  require(scale == CUDA_R_32F, "alpha and beta are f32");
  put(desc, Operation{compute});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              size_t bytes) {
  require(bytes == 4, "attributes of a product have 4 bytes");
  Operation op = get<Operation>(desc);
  if (attribute == CUBLASLT_MATMUL_DESC_TRANSA)
    op.a = get<cublasOperation_t>(value);
  else if (attribute == CUBLASLT_MATMUL_DESC_TRANSB)
    op.b = get<cublasOperation_t>(value);
  else if (attribute == CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET)
    op.multiprocessors = get<int32_t>(value);
  else
    return CUBLAS_STATUS_INVALID_VALUE;
  put(desc, op);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t preference, size_t) {
  put(preference, Preference{});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  Preference p = get<Preference>(preference);
  const bool wide = attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
  require(bytes == (wide ? 8 : 4), "size of a preference");
  if (wide)
    p.workspace = get<uint64_t>(value);
  else if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
    p.schemes = get<uint32_t>(value);
  else if (attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES)
    p.a = get<uint32_t>(value);
  else if (attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES)
    p.b = get<uint32_t>(value);
  else if (attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES)
    p.c = get<uint32_t>(value);
  else if (attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES)
    p.d = get<uint32_t>(value);
  else
    return CUBLAS_STATUS_INVALID_VALUE;
  put(preference, p);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  require(wanted >= 1 && c == d, "one result at least, C in place");
  const Operation op = get<Operation>(desc);
  const Preference p = get<Preference>(preference);
  const Shapes s = shapes_of(op, a, b, c);
  require(p.c == p.d, "C and D are one matrix");
  *found = find_nothing ? 0 : 1;
  find_nothing = false;
  if (!*found) return CUBLAS_STATUS_NOT_SUPPORTED;
  const int number = int(the_record.heuristics.size());
  the_record.heuristics.push_back({s.m, s.n, s.k, p.schemes, op.compute, op.multiprocessors, p.a, p.b, p.c});
  // Every other algorithm wants workspace.
  const uint64_t workspace = number % 2 ? std::min<uint64_t>(p.workspace, 4096) : 0;
  results[0] = {};
  put(&results[0].algo, Algorithm{number, p.a, p.b, p.c, workspace});
  results[0].workspaceSize = workspace;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                       cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t* algo,
                                       cublasLtMatmulHeuristicResult_t* result) {
  const Shapes s = shapes_of(get<Operation>(desc), a, b, c);
  for (int64_t length : {s.n, s.k})
    if (length >= first_refused && length <= last_refused) return CUBLAS_STATUS_NOT_SUPPORTED;
  result->workspaceSize = get<Algorithm>(algo).workspace;
  result->state = CUBLAS_STATUS_SUCCESS;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes, cudaStream_t) {
  const Operation op = get<Operation>(desc);
  const Shapes s = shapes_of(op, a_layout, b_layout, c_layout);
  const Algorithm chosen = get<Algorithm>(algo);
  require(c == d && c_layout == d_layout, "C in place");
  require(get<float>(alpha) == 1 && (get<float>(beta) == 0 || get<float>(beta) == 1), "alpha 1, beta 0 or 1");
  require(divides(chosen.a, a) && divides(chosen.b, b) && divides(chosen.c, c), "alignments as promised");
  require(workspace_bytes >= chosen.workspace && (!workspace_bytes || workspace), "workspace as asked for");
  if (workspace_bytes) std::memset(workspace, 0xff, workspace_bytes);
  for (int64_t i = 0; i < s.m; i++)
    for (int64_t j = 0; j < s.n; j++) {
      double sum = get<float>(beta) == 1 ? element(s.c, c, i, j) : 0;
      for (int64_t k = 0; k < s.k; k++)
        sum += (op.a == CUBLAS_OP_T ? element(s.a, a, k, i) : element(s.a, a, i, k)) *
               (op.b == CUBLAS_OP_T ? element(s.b, b, j, k) : element(s.b, b, k, j));
      const int64_t at = i + j * s.c.ld;
      if (s.c.type == CUDA_R_32F)
        static_cast<float*>(d)[at] = float(sum);
      else
        static_cast<bf16*>(d)[at] = jambalaya::to_bf16(float(sum));
    }
  the_record.products.push_back({chosen.number, s.m, s.n, s.k});
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
