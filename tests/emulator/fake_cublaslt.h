// A library with the functions of cuBLASLt that kernels/cuda/products_cublas.cpp calls, on the CPU: it holds
// its caller to the documented rules (shapes, leading dimensions, types, alignments that were promised,
// workspace) and multiplies column-major matrices by their definition. It writes down what it was asked.
#pragma once
#include <cublasLt.h>

#include <cstdint>
#include <vector>

namespace fake_cublaslt {

struct Heuristic {  ///< one question for an algorithm
  int64_t m, n, k;
  uint32_t reduction_schemes;
  cublasComputeType_t compute;
  int32_t multiprocessors;
  uint32_t alignment_a, alignment_b, alignment_c;
};
struct Product {  ///< one product that was computed
  int algorithm;  ///< number of the question that gave it
  int64_t m, n, k;
};
/// Since the last clear().
struct Record {
  std::vector<Heuristic> heuristics;
  std::vector<Product> products;
};
Record& record();
void clear();
/// cublasLtMatmulAlgoCheck refuses algorithms for products where the columns of C or the length of a sum lie
/// in [first, last].
void refuse_between(int64_t first, int64_t last);
/// The next question finds no algorithm.
void find_none();

}  // namespace fake_cublaslt
