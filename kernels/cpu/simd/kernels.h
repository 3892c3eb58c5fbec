// All vector kernels of one instruction set.
#pragma once
#include "kernels/cpu/simd/attention.h"
#include "kernels/cpu/simd/conv.h"
#include "kernels/cpu/simd/gemm.h"
#include "kernels/cpu/simd/moe.h"
#include "kernels/cpu/simd/norm.h"
#include "kernels/cpu/simd/optimizer.h"
#include "kernels/cpu/simd/pointwise.h"
#include "kernels/cpu/simd/scan.h"
#include "kernels/cpu/simd/vocab.h"

namespace jambalaya {

struct VectorKernels {
  const char* name;  ///< "cpu (avx512-bf16)"
  const GemmKernels& gemm;
  const VocabKernels& vocab;
  const NormKernels& norm;
  const ConvKernels& conv;
  const ScanKernels& scan;
  const AttentionKernels& attention;
  const MoeKernels& moe;
  const PointwiseKernels& pointwise;
  const OptimizerKernels& optimizer;
};

}  // namespace jambalaya
