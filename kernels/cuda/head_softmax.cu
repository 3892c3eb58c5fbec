// One block a token. Bound by memory: the logits (4 bytes) are read once and their gradients written once
// where a row stays in registers and shared memory; two exponentials a logit.
#include "kernels/cuda/head_softmax.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/vector.h"

namespace jambalaya::cuda {
namespace {

/// Columns of a pack, and packs that a thread loads before it looks at the first (so that many loads are
/// under way). A thread keeps its first kHeld packs in registers.
constexpr int kPack = 4, kBatch = 4, kHeld = 2;
constexpr float kInfinity = INFINITY;

/// Four logits; -inf beyond the row's end.
__device__ __forceinline__ void read_logits(float (&x)[kPack], const float* row, int column, int columns) {
  load<kPack>(x, row + column);
#pragma unroll
  for (int j = 0; j < kPack; j++)
    if (column + j >= columns) x[j] = -kInfinity;
}

/// What a thread has seen of a row: sum of exp(x - largest) (Milakov and Gimelshein 2018), first place of the
/// largest. NaN goes to the sum.
struct Seen {
  float largest = -kInfinity, sum = 0;
  int place = 0x7fffffff;
  __device__ __forceinline__ void add(const float (&x)[kPack], int column) {
    const float top = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
    if (top > largest) {
      sum *= expf(largest - top);
      largest = top;
      place = column + (x[0] == top ? 0 : x[1] == top ? 1 : x[2] == top ? 2 : 3);
    }
    const float shift = largest == -kInfinity ? 0.0f : largest;
    sum += (expf(x[0] - shift) + expf(x[1] - shift)) + (expf(x[2] - shift) + expf(x[3] - shift));
  }
};

struct Least {
  __device__ __forceinline__ int operator()(int a, int b) const { return a < b ? a : b; }
};

/// Column of the token's target, -1 when another part has it.
__device__ __forceinline__ int64_t target_column(const SoftmaxChunk& a, int64_t row) {
  const int64_t column = a.targets[a.token[row]] - a.first_id;
  return column >= 0 && column < a.columns ? column : -1;
}

/// Losses of one row from all parts' statistics, in fp64; returns what exp(logit - own largest) is multiplied
/// by in the gradient. Parts are taken in their order: the same bits on every rank, and the lowest of equal
/// ids wins.
__device__ float finish_row(const SoftmaxChunk& a, int64_t row) {
  const int token = a.token[row];
  const SoftmaxStatistics* const all = a.all + row;
  double largest = double(all->largest), target_logit = double(all->target_logit), sum = 0;
  bool correct = all->correct != 0;
  for (int64_t p = 1; p < a.parts; p++) {
    const SoftmaxStatistics& part = all[p * a.tokens];
    if (double(part.largest) > largest) largest = double(part.largest), correct = part.correct != 0;
    target_logit = fmax(target_logit, double(part.target_logit));
  }
  for (int64_t p = 0; p < a.parts; p++) {
    const SoftmaxStatistics& part = all[p * a.tokens];
    sum += double(part.sum) * exp(double(part.largest) - largest);
  }
  const double log_sum = log(sum), lse = largest + log_sum;
  // An op cannot refuse a target on the device; it must not pass either.
  const double nll = a.targets[token] < a.vocabulary ? (largest - target_logit) + log_sum : double(NAN);
  a.lse[row] = lse;
  a.nll[row] = nll;
  if (a.nll_of_token) a.nll_of_token[token] = float(nll);
  if (a.correct_of_token) a.correct_of_token[token] = correct;
  return float((double(a.scale) + 2 * double(a.z_scale) * lse) / sum *
               exp(double(a.own[row].largest) - largest));
}

/// What a gradient's row is made of.
struct GradientRow {
  float largest, factor, scale;
  int64_t target;
  template <class Act>
  __device__ __forceinline__ void write(Act* row, int column, float (&x)[kPack]) const {
#pragma unroll
    for (int j = 0; j < kPack; j++) {
      x[j] = expf(x[j] - largest) * factor;
      if (column + j == target) x[j] -= scale;
    }
    store<kPack>(row + column, x);  // the row's padding is ours too
  }
};

template <class Act, int Threads>
__device__ __forceinline__ void clear_row(Act* row, int columns) {
  const float zeros[kPack] = {};
  for (int column = int(threadIdx.x) * kPack; column < columns; column += Threads * kPack)
    store<kPack>(row + column, zeros);
}

/// Statistics of one row a block; with Whole also losses and gradients, for which the row is kept: a thread's
/// first packs in registers, what follows in shared memory. The order of sums is the same either way.
template <int Warps, class Act, bool Whole>
__global__ void __launch_bounds__(32 * Warps, Warps == 16 ? 2 : 1) softmax_kernel(SoftmaxChunk a) {
  constexpr int kStep = 32 * Warps * kPack;
  __shared__ float shared[Warps];
  __shared__ int shared_place[Warps];
  __shared__ float shared_factor;
  const int64_t row = blockIdx.x;
  float* const logits = a.logits + row * a.stride;
  Act* const gradient = reinterpret_cast<Act*>(logits);
  const int own_column = int(threadIdx.x) * kPack;
  if (row >= *a.count) {
    if (Whole) clear_row<Act, 32 * Warps>(gradient, a.columns);
    if (threadIdx.x == 0) a.own[row] = {0, 0, 0, 0};
    return;
  }
  const int64_t target = target_column(a, row);
  const float target_logit = target >= 0 ? logits[target] : -kInfinity;

  float* const kept = dynamic_shared<float>();
  float first[kHeld][kPack], x[kBatch][kPack];
  Seen seen;
#pragma unroll
  for (int b = 0; b < kHeld; b++)
    if (own_column + b * kStep < a.columns) read_logits(first[b], logits, own_column + b * kStep, a.columns);
#pragma unroll
  for (int b = 0; b < kHeld; b++)
    if (own_column + b * kStep < a.columns) seen.add(first[b], own_column + b * kStep);
  for (int column = own_column + kHeld * kStep; column < a.columns; column += kBatch * kStep) {
#pragma unroll
    for (int b = 0; b < kBatch; b++)
      if (column + b * kStep < a.columns) read_logits(x[b], logits, column + b * kStep, a.columns);
#pragma unroll
    for (int b = 0; b < kBatch; b++) {
      if (column + b * kStep >= a.columns) continue;
      if (Whole) store<kPack>(kept + (column + (b - kHeld) * kStep), x[b]);
      seen.add(x[b], column + b * kStep);
    }
  }

  const float largest = block_reduce<Warps>(seen.largest, shared, Max{});
  const bool has_it = seen.largest == largest;
  const float sum = block_reduce<Warps>(has_it ? seen.sum : seen.sum * expf(seen.largest - largest), shared);
  const int place = block_reduce<Warps>(has_it ? seen.place : 0x7fffffff, shared_place, Least{});
  if (threadIdx.x == 0)
    a.own[row] = {largest, sum, target_logit, target >= 0 && place == int(target) ? 1.0f : 0.0f};
  if (!Whole) return;
  if (threadIdx.x == 0) shared_factor = finish_row(a, row);
  __syncthreads();  // also: the whole row has been read before any of it is overwritten
  const GradientRow gradients{largest, shared_factor, a.scale, target};
#pragma unroll
  for (int b = 0; b < kHeld; b++)
    if (own_column + b * kStep < a.columns) gradients.write(gradient, own_column + b * kStep, first[b]);
  for (int column = own_column + kHeld * kStep; column < a.columns; column += kStep) {
    load<kPack>(x[0], kept + (column - kHeld * kStep));
    gradients.write(gradient, column, x[0]);
  }
}

__global__ void losses_kernel(SoftmaxChunk a) {
  const int64_t row = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row < *a.count) a.factor[row] = finish_row(a, row);
}

/// From the front to the back: an element of the gradient is no wider than the logit it replaces, so writing
/// stays behind reading; the barrier keeps the block's threads together.
template <int Warps, class Act>
__global__ void __launch_bounds__(32 * Warps, 1) gradients_kernel(SoftmaxChunk a) {
  constexpr int kStep = 32 * Warps * kPack;
  const int64_t row = blockIdx.x;
  const float* const logits = a.logits + row * a.stride;
  Act* const gradient = reinterpret_cast<Act*>(a.logits + row * a.stride);
  if (row >= *a.count) return clear_row<Act, 32 * Warps>(gradient, a.columns);
  const GradientRow gradients{a.own[row].largest, a.factor[row], a.scale, target_column(a, row)};
  for (int begin = 0; begin < a.columns; begin += kBatch * kStep) {
    const int column = begin + int(threadIdx.x) * kPack;
    float x[kBatch][kPack];
#pragma unroll
    for (int b = 0; b < kBatch; b++)
      if (column + b * kStep < a.columns) read_logits(x[b], logits, column + b * kStep, a.columns);
    __syncthreads();
#pragma unroll
    for (int b = 0; b < kBatch; b++)
      if (column + b * kStep < a.columns) gradients.write(gradient, column + b * kStep, x[b]);
  }
}

/// f<Warps>() with the block for rows of this length: by shape alone, as the order of sums follows from it.
template <class F>
void with_warps(int64_t columns, F&& f) {
  if (columns <= 512)
    f.template operator()<1>();
  else if (columns <= 6144)
    f.template operator()<4>();
  else if (columns <= 32768)
    f.template operator()<16>();
  else
    f.template operator()<32>();
}

/// Shared memory that a block may have on this GPU, less what the kernel has besides (CUDA C++ Programming
/// Guide, technical specifications by compute capability).
int64_t shared_memory(const AcceleratorProperties& gpu) {
  const int capability = 10 * gpu.major + gpu.minor;
  const int64_t kib = capability == 80 || capability == 87  ? 163
                      : capability >= 90 && gpu.major <= 11 ? 227
                                                            : 99;
  return (kib - 2) << 10;
}

}  // namespace

void softmax_statistics(const Context& ctx, const SoftmaxChunk& chunk) {
  with_warps(chunk.columns, [&]<int Warps>() {
    launch(ctx, "head_softmax_statistics", softmax_kernel<Warps, float, false>,
           {grid_of(chunk.tokens), 32 * Warps}, chunk);
  });
}

void softmax_losses(const Context& ctx, const SoftmaxChunk& chunk) {
  launch(ctx, "head_softmax_losses", losses_kernel, {grid_of(div_up(chunk.tokens, 128)), 128}, chunk);
}

void softmax_gradients(const Context& ctx, const SoftmaxChunk& chunk, bool bf16_gradients) {
  with_warps(chunk.columns, [&]<int Warps>() {
    launch(ctx, "head_softmax_gradients",
           bf16_gradients ? gradients_kernel<Warps, bf16> : gradients_kernel<Warps, float>,
           {grid_of(chunk.tokens), 32 * Warps}, chunk);
  });
}

void softmax_all(const Context& ctx, const SoftmaxChunk& chunk, bool bf16_gradients) {
  bool whole = false;
  with_warps(chunk.columns, [&]<int Warps>() {
    const int64_t in_registers = 32 * Warps * kPack * kHeld,
                  bytes = std::max<int64_t>(0, chunk.stride - in_registers) * 4;
    whole = bytes <= shared_memory(ctx.accelerator->properties());
    if (whole)
      launch(ctx, "head_softmax",
             bf16_gradients ? softmax_kernel<Warps, bf16, true> : softmax_kernel<Warps, float, true>,
             {grid_of(chunk.tokens), 32 * Warps, size_t(bytes)}, chunk);
  });
  if (whole) return;
  softmax_statistics(ctx, chunk);
  softmax_losses(ctx, chunk);
  softmax_gradients(ctx, chunk, bf16_gradients);
}

}  // namespace jambalaya::cuda
