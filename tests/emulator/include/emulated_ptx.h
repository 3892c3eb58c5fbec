// The functions of kernels/cuda/ptx.h in plain C++. Fragment layouts as in the PTX ISA, written out element
// by element.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace jambalaya::cuda {

inline float flushed(float x) { return std::fabs(x) < 1.17549435e-38f ? std::copysign(0.f, x) : x; }
inline float ex2(float x) { return flushed(std::exp2(x)); }
inline float lg2(float x) { return std::log2(flushed(x)); }
inline float rcp(float x) { return flushed(1.f / flushed(x)); }
inline float tanh_approx(float x) { return std::tanh(x); }

[[noreturn]] inline void trap() { emulator::fail("the kernel stopped itself (trap)"); }

// ---- copies to shared memory: done when the thread waits for their group, not before ----
inline void cp_async(void* to, const void* from, int bytes, bool valid) {
  if (reinterpret_cast<uintptr_t>(to) % uintptr_t(bytes) ||
      (valid && reinterpret_cast<uintptr_t>(from) % uintptr_t(bytes)))
    emulator::fail("cp.async at an address that is not aligned");
  emulator::Fibre& f = *emulator::running;
  f.copies.push_back({to, valid ? from : nullptr, bytes, f.copy_group});
}
inline void cp_async_16(void* to_shared, const void* from_global, bool valid = true) {
  cp_async(to_shared, from_global, 16, valid);
}
inline void cp_async_4(void* to_shared, const void* from_global, bool valid = true) {
  cp_async(to_shared, from_global, 4, valid);
}
inline void cp_async_commit() { emulator::running->copy_group++; }
template <int N>
inline void cp_async_wait() {
  emulator::Fibre& f = *emulator::running;
  size_t kept = 0;
  for (const emulator::PendingCopy& c : f.copies) {
    if (c.group >= f.copy_group - N) {
      f.copies[kept++] = c;
    } else if (c.from) {
      std::memcpy(c.to, c.from, size_t(c.bytes));
    } else {
      std::memset(c.to, 0, size_t(c.bytes));
    }
  }
  f.copies.resize(kept);
}

// ---- tensor cores ----
inline float round_tf32(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  if ((u & 0x7f800000u) != 0x7f800000u) u = (u + 0x1000u) & ~0x1fffu;
  std::memcpy(&x, &u, 4);
  return x;
}
inline float upper_half(uint32_t u) {
  u &= 0xffff0000u;
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}
inline float lower_half(uint32_t u) { return upper_half(u << 16); }

/// d[16, 8] += a[16, K] b[K, 8] of whole matrices.
template <int K>
inline void multiply(float (&d)[16][8], const float (&a)[16][K], const float (&b)[K][8]) {
  for (int m = 0; m < 16; m++)
    for (int k = 0; k < K; k++)
      for (int n = 0; n < 8; n++) d[m][n] += a[m][k] * b[k][n];
}
struct MmaTf32 {
  float* d;
  const float *a, *b;
};
struct MmaBf16 {
  float* d;
  const uint32_t *a, *b;
};
/// d of all lanes out of their registers into a matrix, and back.
template <class Call, bool Write>
inline void move_d(void* const* calls, float (&d)[16][8]) {
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4, q = lane % 4;
    float* const r = static_cast<const Call*>(calls[lane])->d;
    for (int i = 0; i < 4; i++) {
      float& element = d[g + i / 2 * 8][2 * q + i % 2];
      if (Write)
        r[i] = element;
      else
        element = r[i];
    }
  }
}
inline void whole_warp(void* const* calls) {
  for (int lane = 0; lane < 32; lane++)
    if (!calls[lane]) emulator::fail("a matrix operation of a warp that is not whole");
}
inline void mma_tf32_of_warp(void* const* calls) {
  whole_warp(calls);
  float a[16][8], b[8][8], d[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4, q = lane % 4;
    const auto* call = static_cast<const MmaTf32*>(calls[lane]);
    // The tensor core reads the upper 19 bits.
    auto tf32 = [](float x) {
      uint32_t u;
      std::memcpy(&u, &x, 4);
      u &= ~0x1fffu;
      std::memcpy(&x, &u, 4);
      return x;
    };
    for (int i = 0; i < 4; i++) a[g + i % 2 * 8][q + i / 2 * 4] = tf32(call->a[i]);
    for (int i = 0; i < 2; i++) b[q + i * 4][g] = tf32(call->b[i]);
  }
  move_d<MmaTf32, false>(calls, d);
  multiply<8>(d, a, b);
  move_d<MmaTf32, true>(calls, d);
}
inline void mma_bf16_of_warp(void* const* calls) {
  whole_warp(calls);
  float a[16][16], b[16][8], d[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4, q = lane % 4;
    const auto* call = static_cast<const MmaBf16*>(calls[lane]);
    for (int i = 0; i < 4; i++) {
      float* const to = &a[g + i % 2 * 8][2 * q + i / 2 * 8];
      to[0] = lower_half(call->a[i]), to[1] = upper_half(call->a[i]);
    }
    for (int i = 0; i < 2; i++) {
      b[2 * q + i * 8][g] = lower_half(call->b[i]);
      b[2 * q + 1 + i * 8][g] = upper_half(call->b[i]);
    }
  }
  move_d<MmaBf16, false>(calls, d);
  multiply<16>(d, a, b);
  move_d<MmaBf16, true>(calls, d);
}
inline void mma_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
  MmaTf32 call{d, a, b};
  emulator::warp_operation(0xffffffffu, mma_tf32_of_warp, &call);
}
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  MmaBf16 call{d, a, b};
  emulator::warp_operation(0xffffffffu, mma_bf16_of_warp, &call);
}

struct LoadMatrix {
  uint32_t* r;
  const void* row;
};
template <bool Transposed>
inline void ldmatrix_of_warp(void* const* calls) {
  whole_warp(calls);
  uint16_t matrix[4][8][8];
  for (int lane = 0; lane < 32; lane++) {
    const void* row = static_cast<const LoadMatrix*>(calls[lane])->row;
    if (reinterpret_cast<uintptr_t>(row) % 16) emulator::fail("ldmatrix at an address that is not aligned");
    std::memcpy(matrix[lane / 8][lane % 8], row, 16);
  }
  for (int lane = 0; lane < 32; lane++)
    for (int i = 0; i < 4; i++) {
      const int g = lane / 4, q = lane % 4;
      const uint16_t low = Transposed ? matrix[i][2 * q][g] : matrix[i][g][2 * q];
      const uint16_t high = Transposed ? matrix[i][2 * q + 1][g] : matrix[i][g][2 * q + 1];
      static_cast<const LoadMatrix*>(calls[lane])->r[i] = uint32_t(high) << 16 | low;
    }
}
inline void ldmatrix(uint32_t (&r)[4], const void* row_in_shared) {
  LoadMatrix call{r, row_in_shared};
  emulator::warp_operation(0xffffffffu, ldmatrix_of_warp<false>, &call);
}
inline void ldmatrix_trans(uint32_t (&r)[4], const void* row_in_shared) {
  LoadMatrix call{r, row_in_shared};
  emulator::warp_operation(0xffffffffu, ldmatrix_of_warp<true>, &call);
}

inline uint32_t bf16_bits(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return (u + 0x7fffu + (u >> 16 & 1)) >> 16;
}
inline uint32_t pack_bf16(float low, float high) { return bf16_bits(high) << 16 | bf16_bits(low); }

}  // namespace jambalaya::cuda
