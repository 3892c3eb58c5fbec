// The machine instructions that kernels use beyond CUDA C++, each behind a function. The emulator has the
// same functions in plain C++ (tests/emulator/include/emulated_ptx.h); no other file holds assembly.
// Sources: PTX ISA 9.0, sections named at each function.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#ifdef JAMBALAYA_EMULATED_CUDA
#include <emulated_ptx.h>
#else

namespace jambalaya::cuda {

// ---- approximate functions of fp32 (9.7.3): about 2 units in the last place; subnormals are flushed ----
__device__ __forceinline__ float ex2(float x) {  ///< 2^x
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float lg2(float x) {  ///< log2 x
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float rcp(float x) {  ///< 1 / x
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// Relative error up to 2^-11: for results that are rounded to bf16, not for fp32 ones.
__device__ __forceinline__ float tanh_approx(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Stops the device: every later call of the run time fails. For what only a bug can cause (9.7.19.5).
__device__ __forceinline__ void trap() { asm volatile("trap;"); }

// ---- copies from global to shared memory beside the arithmetic (9.7.9.25) ----
/// 16 bytes, both addresses multiples of 16. Without `valid` nothing is read and zeros are written.
__device__ __forceinline__ void cp_async_16(void* to_shared, const void* from_global, bool valid = true) {
  const uint32_t to = uint32_t(__cvta_generic_to_shared(to_shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from_global), "r"(bytes)
               : "memory");
}
/// 4 bytes, both addresses multiples of 4.
__device__ __forceinline__ void cp_async_4(void* to_shared, const void* from_global, bool valid = true) {
  const uint32_t to = uint32_t(__cvta_generic_to_shared(to_shared));
  const int bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from_global), "r"(bytes)
               : "memory");
}
/// Ends a group of this thread's copies.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most N groups of this thread are under way; other threads' copies need a barrier besides.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// ---- tensor cores (9.7.14.5). Fragments: lane = 4 g + q ----
/// fp32 rounded to tf32, to nearest, ties away.
__device__ __forceinline__ float round_tf32(float x) {
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return __uint_as_float(y);
}
/// d[16, 8] += a[16, 8] b[8, 8], operands tf32. a0 (g, q), a1 (g+8, q), a2 (g, q+4), a3 (g+8, q+4); b0 (q,
/// g), b1 (q+4, g); d0, d1 (g, 2q), (g, 2q+1); d2, d3 (g+8, ...).
__device__ __forceinline__ void mma_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}
/// d[16, 8] += a[16, 16] b[16, 8], operands bf16, two a register (lower column or k in the lower half).
/// a0 (g, 2q..), a1 (g+8, 2q..), a2 (g, 2q+8..), a3 (g+8, 2q+8..); b0 (k 2q.., g), b1 (k 2q+8.., g); d as
/// above.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/// Four 8x8 matrices of 16-bit elements from shared memory: lane l gives the address of row l % 8 of matrix
/// l / 8 (16 bytes, aligned); register i of lane 4g+q gets elements 2q, 2q+1 of row g of matrix i; with
/// ldmatrix_trans elements (2q, g) and (2q+1, g).
__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], const void* row_in_shared) {
  const uint32_t from = uint32_t(__cvta_generic_to_shared(row_in_shared));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
}
__device__ __forceinline__ void ldmatrix_trans(uint32_t (&r)[4], const void* row_in_shared) {
  const uint32_t from = uint32_t(__cvta_generic_to_shared(row_in_shared));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
}
/// Two fp32 rounded to nearest even and packed; `low` in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}

}  // namespace jambalaya::cuda
#endif
