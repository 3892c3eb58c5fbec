// The emulator that kernels are tested in: what CUDA promises holds, and what it forbids ends the process.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.h"
#include "kernels/cuda/reduce.h"

namespace jambalaya::cuda {
namespace {

template <class... Params, class... Args>
void run(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, Args... args) {
  emulator::run("test", grid, block, shared, [&] { kernel(args...); });
}

__global__ void reverse_kernel(const int* in, int* out) {
  __shared__ int kept[96];
  const unsigned i = threadIdx.x;
  kept[i] = in[blockIdx.x * 96 + i];
  __syncthreads();
  out[blockIdx.x * 96 + i] = kept[95 - i];
}

TEST(emulator, barriers_order_shared_memory) {
  std::vector<int> in(192), out(192);
  for (int i = 0; i < 192; i++) in[size_t(i)] = i;
  run(reverse_kernel, 2, 96, 0, in.data(), out.data());
  for (int i = 0; i < 192; i++) EXPECT_EQ(out[size_t(i)], i / 96 * 96 + 95 - i % 96);
}

__global__ void sum_kernel(const float* in, float* out) {
  __shared__ float parts[4];
  const float sum = block_reduce<4>(in[threadIdx.x], parts);
  const float most = block_reduce<4>(in[threadIdx.x], parts, Max());
  if (threadIdx.x == 77) out[0] = sum, out[1] = most;
}

TEST(emulator, block_reductions_see_every_thread) {
  std::vector<float> in(128), out(2);
  for (int i = 0; i < 128; i++) in[size_t(i)] = float(i % 50);
  run(sum_kernel, 1, 128, 0, in.data(), out.data());
  EXPECT_EQ(out[0], float(2 * (49 * 50 / 2) + 27 * 28 / 2));
  EXPECT_EQ(out[1], 49);
}

__global__ void warp_kernel(unsigned* out) {
  const unsigned lane = threadIdx.x;
  out[lane] = __shfl_up_sync(kAllLanes, lane, 3);
  out[32 + lane] = __shfl_down_sync(kAllLanes, lane, 3, 8);
  out[64 + lane] = __ballot_sync(kAllLanes, lane % 3 == 0);
  out[96 + lane] = __match_any_sync(kAllLanes, lane / 5);
  if (lane < 16) out[128 + lane] = __reduce_add_sync(0xffffu, lane);
  out[160 + lane] = __shfl_sync(kAllLanes, lane, 5, 16);
}

TEST(emulator, warp_functions_follow_the_programming_guide) {
  std::vector<unsigned> out(192);
  run(warp_kernel, 1, 32, 0, out.data());
  for (unsigned l = 0; l < 32; l++) {
    EXPECT_EQ(out[l], l < 3 ? l : l - 3);
    EXPECT_EQ(out[32 + l], l % 8 + 3 > 7 ? l : l + 3);
    EXPECT_EQ(out[64 + l], 0x49249249u);
    EXPECT_EQ(out[96 + l], l / 5 == 6 ? 0xc0000000u : 0x1fu << l / 5 * 5);
    EXPECT_EQ(out[160 + l], l / 16 * 16 + 5);
    if (l < 16) {
      EXPECT_EQ(out[128 + l], 120u);
    }
  }
}

float value(int row, int column) { return float((row * 7 + column * 3) % 11 - 5) / 4; }

/// One warp: d = a b through shared memory, ldmatrix and the tensor core.
__global__ void product_kernel(const bf16* a, const bf16* b, float* out) {
  __shared__ __align__(16) bf16 as[16][16], bs[16][8];
  const int lane = int(threadIdx.x), g = lane / 4, q = lane % 4;
  for (int i = lane; i < 256; i += 32) as[i / 16][i % 16] = a[i];
  for (int i = lane; i < 128; i += 32) bs[i / 8][i % 8] = b[i];
  __syncwarp();
  uint32_t fa[4], fb[4];
  ldmatrix(fa, &as[lane % 16][lane / 16 * 8]);
  ldmatrix_trans(fb, &bs[lane % 16][0]);
  float d[4] = {1, 1, 1, 1};
  mma_bf16(d, fa, {fb[0], fb[1]});
  for (int i = 0; i < 4; i++) out[(g + i / 2 * 8) * 8 + 2 * q + i % 2] = d[i];
}

TEST(emulator, matrix_fragments_make_a_product) {
  std::vector<bf16> a, b;
  for (int i = 0; i < 256; i++) a.push_back(to_bf16(value(i / 16, i % 16)));
  for (int i = 0; i < 128; i++) b.push_back(to_bf16(value(i / 8 + 3, i % 8)));
  std::vector<float> out(128);
  run(product_kernel, 1, 32, 0, static_cast<const bf16*>(a.data()), static_cast<const bf16*>(b.data()),
      out.data());
  for (int m = 0; m < 16; m++)
    for (int n = 0; n < 8; n++) {
      float sum = 1;
      for (int k = 0; k < 16; k++) sum += value(m, k) * value(k + 3, n);
      EXPECT_FLOAT_EQ(out[size_t(m * 8 + n)], sum);
    }
}

__global__ void tf32_kernel(float* out) {
  const int lane = int(threadIdx.x), g = lane / 4, q = lane % 4;
  float d[4] = {};
  // a[m][k] = m + 1 where k == 2; b[k][n] = 10 k + n
  mma_tf32(d, {q == 2 ? g + 1.f : 0.f, q == 2 ? g + 9.f : 0.f, 0.f, 0.f}, {10.f * q + g, 10.f * (q + 4) + g});
  for (int i = 0; i < 4; i++) out[(g + i / 2 * 8) * 8 + 2 * q + i % 2] = d[i];
}

TEST(emulator, tf32_fragments_make_a_product) {
  std::vector<float> out(128);
  run(tf32_kernel, 1, 32, 0, out.data());
  for (int m = 0; m < 16; m++)
    for (int n = 0; n < 8; n++) EXPECT_EQ(out[size_t(m * 8 + n)], float((m + 1) * (20 + n)));
}

__global__ void copy_kernel(const float* in, float* out) {
  float* kept = dynamic_shared<float>();
  cp_async_16(kept, in);
  cp_async_commit();
  cp_async_16(kept + 4, in + 4, false);
  cp_async_commit();
  out[0] = kept[0];
  cp_async_wait<1>();
  out[1] = kept[1], out[2] = kept[4];
  cp_async_wait<0>();
  out[3] = kept[4];
}

TEST(emulator, copies_arrive_when_they_are_waited_for) {
  alignas(16) const float in[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<float> out(4);
  run(copy_kernel, 1, 1, 32, static_cast<const float*>(in), out.data());
  EXPECT_TRUE(std::isnan(out[0]));  // shared memory begins as garbage
  EXPECT_EQ(out[1], 2);
  EXPECT_TRUE(std::isnan(out[2]));
  EXPECT_EQ(out[3], 0);
}

__global__ void order_kernel(int* order) {
  __shared__ int next;
  if (threadIdx.x == 0) next = 0;
  __syncthreads();
  order[next++] = int(threadIdx.x);
}

TEST(emulator, threads_run_in_no_fixed_order) {
  std::vector<int> order(64), sorted(64);
  run(order_kernel, 1, 64, 0, order.data());
  sorted = order;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_NE(order, sorted);
  for (int i = 0; i < 64; i++) EXPECT_EQ(sorted[size_t(i)], i);
}

__global__ void divergent_barrier() {
  if (threadIdx.x < 32) __syncthreads();
}
__global__ void divergent_shuffle(int* out) {
  if (threadIdx.x == 3) return;
  out[0] = __shfl_xor_sync(kAllLanes, 1, 1);
}
__global__ void reads_absent_lane(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, 1, 20);
}
__global__ void mixed_operations(int* out) {
  if (threadIdx.x % 2)
    out[0] = __shfl_xor_sync(kAllLanes, 1, 1);
  else
    __syncwarp();
}
__global__ void barrier_against_warp(int* out) {
  if (threadIdx.x == 0)
    __syncthreads();
  else
    out[0] = __shfl_xor_sync(kAllLanes, 1, 1);
}

TEST(emulator_death, forbidden_code_is_told) {
  std::vector<int> out(64);
  EXPECT_DEATH(run(divergent_barrier, 1, 64, 0), "left the kernel");
  EXPECT_DEATH(run(divergent_shuffle, 1, 32, 0, out.data()), "left the kernel");
  EXPECT_DEATH(run(reads_absent_lane, 1, 32, 0, out.data()), "takes no part");
  EXPECT_DEATH(run(mixed_operations, 1, 32, 0, out.data()), "different warp operations");
  EXPECT_DEATH(run(barrier_against_warp, 1, 32, 0, out.data()), "wait for each other");
}

}  // namespace
}  // namespace jambalaya::cuda
