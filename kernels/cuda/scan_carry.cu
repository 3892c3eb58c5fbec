// What pieces of a segment do to a state that passes through them: the recurrences of the scan alone, without
// outputs. For shards of a longer stream (the ops) and for the parts of a segment that scan_forward.cu and
// scan_backward.cu walk at the same time. Legend: kernels/ops.h, ops_state_space.h; pieces: scan.h.
//
// The arithmetic is theirs, operation by operation, so that a state from zero has the same bits here and
// there.
#include "kernels/check.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/scan_tile.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

constexpr int kTile = 16, kLanes = 4, kChannels = kScanThreads / kLanes, kStates = kStateBlock / kLanes;

template <class A>
struct CarryTile {
  A raw[2][3][kTile][kChannels];                            ///< s, u (forward) or s, d_out, z (backward)
  float delta[kTile][kChannels], driver[kTile][kChannels];  ///< driver: delta u, or dy
};

/// Forward: h = exp(delta A) h + delta u B. Backward, last token to first: g = exp(delta A) (g + C dy).
template <class A, bool kForward, bool kAsync, bool kOneBlock>
struct CarryWalk {
  static constexpr int kVector = kAsync ? 2 : 1, kRows = kScanThreads * kVector / kChannels;

  const ScanStream<A>& in;
  const ScanCarryGradients<A>& gradients;
  CarryTile<A>& tile;
  float* coefficients;  ///< [2][kTile][padded]: B or C
  float* memory;        ///< without kOneBlock: [blocks][2][kScanThreads][kStates], rates and states
  int64_t e0, e;
  int lane, padded, column, row;
  float h[kStates], rate[kStates], bias[kVector], total = 0;

  static size_t shared_bytes(int64_t states) {
    const int64_t blocks = div_up(states, kStateBlock);
    const int64_t floats =
        2 * kTile * kStateBlock * blocks + (kOneBlock ? 0 : 2 * kScanThreads * kStates * blocks);
    return sizeof(CarryTile<A>) + size_t(floats) * 4;
  }

  __device__ void begin(const float* start) {
    padded = kOneBlock ? kStateBlock : int((in.states + kStateBlock - 1) / kStateBlock * kStateBlock);
    coefficients = reinterpret_cast<float*>(&tile + 1), memory = coefficients + 2 * kTile * padded;
    lane = int(threadIdx.x) % kLanes, e = e0 + threadIdx.x / kLanes;
    column = int(threadIdx.x) % (kChannels / kVector) * kVector,
    row = int(threadIdx.x) / (kChannels / kVector);
    for (int block = 0; block < padded / kStateBlock; block++) {
      const int64_t n = block * kStateBlock + lane * kStates;
#pragma unroll
      for (int j = 0; j < kStates; j++) rate[j] = decay_rate(in, e, n + j);
      load_states(h, start, e, n, in.channels, in.states);
      if (!kOneBlock) store<kStates>(place(block, 0), rate), store<kStates>(place(block, 1), h);
    }
#pragma unroll
    for (int i = 0; i < kVector; i++)
      bias[i] = e0 + column + i < in.channels ? in.dt_bias[e0 + column + i] : 0.f;
  }
  __device__ float* place(int block, int which) {
    return memory + ((2 * block + which) * kScanThreads + int(threadIdx.x)) * kStates;
  }

  __device__ void stage(int buffer, int64_t t, int count) {
    auto& raw = tile.raw[buffer];
    stage_rows<kAsync, kTile>(raw[0], in.s, in.s_stride, t, count, e0, in.channels);
    if (kForward) {
      stage_rows<kAsync, kTile>(raw[1], in.u, in.u_stride, t, count, e0, in.channels);
    } else {
      stage_rows<kAsync, kTile>(raw[1], gradients.d_out, gradients.d_out_stride, t, count, e0, in.channels);
      if (in.z) stage_rows<kAsync, kTile>(raw[2], in.z, in.z_stride, t, count, e0, in.channels);
    }
    stage_coefficients<kAsync>(coefficients + buffer * kTile * padded, kForward ? in.b : in.c,
                               kForward ? in.b_stride : in.c_stride, t, count, int(in.states), padded);
    if constexpr (kAsync) cp_async_commit();
  }

  __device__ __forceinline__ void prepare(int buffer, int count) {
    for (int i = row; i < count; i += kRows) {
      float s[kVector], x[kVector], z[kVector];
      load<kVector>(s, &tile.raw[buffer][0][i][column]);
      load<kVector>(x, &tile.raw[buffer][1][i][column]);
      if (!kForward && in.z) load<kVector>(z, &tile.raw[buffer][2][i][column]);
#pragma unroll
      for (int k = 0; k < kVector; k++) {
        s[k] = softplus(s[k] + bias[k]);
        if (kForward)
          x[k] *= s[k];
        else if (in.z)
          x[k] *= silu(z[k]);
      }
      store<kVector>(&tile.delta[i][column], s);
      store<kVector>(&tile.driver[i][column], x);
    }
  }

  __device__ __forceinline__ void advance(int buffer, int block, int count) {
    const int channel = int(threadIdx.x) / kLanes;
    const float* const at = coefficients + buffer * kTile * padded + block * kStateBlock + lane * kStates;
#pragma unroll 4
    for (int step = 0; step < count; step++) {
      const int i = kForward ? step : count - 1 - step;
      const float delta = tile.delta[i][channel], driver = tile.driver[i][channel];
      float x[kStates];
      load<kStates>(x, at + i * padded);
#pragma unroll
      for (int j = 0; j < kStates; j++) {
        const float a = ex2(delta * rate[j]);
        h[j] = kForward ? fmaf(a, h[j], driver * x[j]) : fmaf(x[j], driver, h[j]) * a;
      }
    }
  }
  /// The sum of delta grows tile by tile, which keeps the rounding of long sums small.
  __device__ __forceinline__ void walk(int buffer, int count) {
    float sum = 0;
    for (int i = 0; i < count; i++) sum += tile.delta[i][threadIdx.x / kLanes];
    total += sum;
    for (int block = 0; block < padded / kStateBlock; block++) {
      if (!kOneBlock) load<kStates>(rate, place(block, 0)), load<kStates>(h, place(block, 1));
      advance(buffer, block, count);
      if (!kOneBlock) store<kStates>(place(block, 1), h);
    }
  }
};

/// states [slots][N][E]: what leaves each piece when zero enters it; the first piece of a run (backward: the
/// last) starts from h0 (dh_last). totals [slots][E]: sums of delta. Without `whole` the piece at the run's
/// far end is left out: nobody asks.
template <class A, bool kForward, bool kAsync, bool kOneBlock>
__global__ __launch_bounds__(kScanThreads) void scan_carry_kernel(ScanStream<A> in,
                                                                  ScanCarryGradients<A> gradients,
                                                                  const ScanPiece* pieces, int64_t groups,
                                                                  bool whole, float* states, float* totals) {
  const ScanPiece piece = pieces[blockIdx.x / groups];
  if (!whole && !(kForward ? piece.leaves : piece.enters)) return;
  CarryWalk<A, kForward, kAsync, kOneBlock> walk{in, gradients, *dynamic_shared<CarryTile<A>>()};
  const int64_t size = in.states * in.channels;
  walk.e0 = blockIdx.x % groups * kChannels;
  if (kForward)
    walk.begin(piece.enters ? nullptr : start_entry(in.h0, size, piece.segment, in.ends_only));
  else
    walk.begin(piece.leaves ? nullptr
                            : end_entry(gradients.dh_last, size, piece.segment, in.segments, in.ends_only));
  const int tokens = piece.end - piece.begin;
  auto place = [&](int done, int count) { return kForward ? piece.begin + done : piece.end - done - count; };
  int count = tokens < kTile ? tokens : kTile, buffer = 0;
  walk.stage(buffer, place(0, count), count);
  for (int done = 0; done < tokens; buffer ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // the tile is there; nobody reads the other buffer any more
    const int left = tokens - done - count, next = left < kTile ? left : kTile;
    if (next) walk.stage(buffer ^ 1, place(done + count, next), next);
    walk.prepare(buffer, count);
    __syncthreads();
    walk.walk(buffer, count);
    __syncthreads();
    done += count, count = next;
  }
  float* const own = states + piece.slot * size;
  for (int block = 0; block < walk.padded / kStateBlock; block++) {
    if (!kOneBlock) load<kStates>(walk.h, walk.place(block, 1));
    store_states(own, walk.h, walk.e, block * kStateBlock + walk.lane * kStates, in.channels, in.states);
  }
  if (walk.lane == 0 && walk.e < in.channels) totals[piece.slot * in.channels + walk.e] = walk.total;
}

/// What leaves a run as a whole; null: nobody asks.
struct RunEnds {
  float *state, *decay;  ///< [N, E]; decay: of what passes through, 0 with `forgets`
  bool forgets;
};

/// Along a run, one thread for each state of a channel: states[slot] becomes what enters the piece. The
/// associative scan of (decay, state) pairs, Blelloch 1990, done serially: pieces are few.
template <class A, bool kForward>
__global__ void scan_combine_kernel(ScanStream<A> in, const float* dh_last, const ScanPiece* pieces,
                                    const int32_t* runs, float* states, const float* totals, RunEnds ends) {
  const int64_t size = in.states * in.channels, i = int64_t(blockIdx.x) * kScanThreads + threadIdx.x;
  if (i >= size) return;
  const int64_t e = i % in.channels;
  const int first = runs[2 * blockIdx.y], count = runs[2 * blockIdx.y + 1] - first;
  const float rate = decay_rate(in, e, i / in.channels);
  float state = 0, total = 0;
  if (count) {
    const int64_t s = pieces[first].segment;
    const float* const start = kForward ? start_entry(in.h0, size, s, in.ends_only)
                                        : end_entry(dh_last, size, s, in.segments, in.ends_only);
    if (start) state = start[i];
  }
  for (int k = 0; k < count; k++) {
    const int64_t slot = kForward ? first + k : first + count - 1 - k;
    float* const at = states + slot * size + i;
    float next = 0;
    if (k + 1 < count || ends.state) {
      const float own = *at, delta = totals[slot * in.channels + e];
      next = k ? fmaf(ex2(delta * rate), state, own) : own;
      total += delta;
    }
    *at = state;
    state = next;
  }
  if (ends.state) ends.state[i] = state;
  if (ends.decay) ends.decay[i] = ends.forgets ? 0.f : ex2(total * rate);
}

template <class A, bool kForward, bool kAsync, bool kOneBlock>
void start(const Context& ctx, const ScanStream<A>& in, const ScanCarryGradients<A>& gradients,
           const ScanPieces& pieces, bool whole, float* states, float* totals) {
  using Walk = CarryWalk<A, kForward, kAsync, kOneBlock>;
  const int64_t groups = div_up(in.channels, kChannels);
  launch(ctx, kForward ? "scan_carry_forward" : "scan_carry_backward",
         scan_carry_kernel<A, kForward, kAsync, kOneBlock>,
         {grid_of(groups * pieces.cuts()), kScanThreads, Walk::shared_bytes(in.states)}, in, gradients,
         pieces.device_cut, groups, whole, states, totals);
}

/// Rows of x [T, columns] can be read 16 bytes at a time.
template <class T>
bool aligned(const T* x, int64_t stride, int64_t columns) {
  constexpr int64_t kPack = 16 / sizeof(T);
  return !x || (columns % 8 == 0 && stride % kPack == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0);
}

template <class A, bool kForward>
void carry(const Context& ctx, const ScanStream<A>& in, const ScanCarryGradients<A>& gradients,
           const ScanPieces& pieces, float* states, RunEnds ends) {
  const int64_t E = in.channels, N = in.states;
  float* const totals = ctx.scratch->array<float>(pieces.cuts() * E, "scan carry");
  const bool rows = aligned(in.s, in.s_stride, E) &&
                    (kForward ? aligned(in.u, in.u_stride, E) && aligned(in.b, in.b_stride, N)
                              : aligned(gradients.d_out, gradients.d_out_stride, E) &&
                                    aligned(in.z, in.z_stride, E) && aligned(in.c, in.c_stride, N));
  auto kernel = N > kStateBlock            ? start<A, kForward, false, false>
                : rows && N == kStateBlock ? start<A, kForward, true, true>
                                           : start<A, kForward, false, true>;
  kernel(ctx, in, gradients, pieces, ends.state != nullptr, states, totals);
  launch(ctx, "scan_combine", scan_combine_kernel<A, kForward>,
         {dim3(grid_of(div_up(N * E, kScanThreads)).x, unsigned(pieces.runs.size() / 2)), kScanThreads}, in,
         gradients.dh_last, pieces.device_cut, pieces.device_runs, states, totals, ends);
}

/// The pieces of a segment [begin, end) whose carry is asked for.
ScanPieces pieces_of(const Context& ctx, int64_t segment, int64_t begin, int64_t end, int64_t channels) {
  constexpr int64_t kFull = int64_t(1) << 16;
  const int64_t tokens = end - begin, threads = kLanes * channels;
  ScanPieces pieces =
      cut_segment(segment, begin, end, threads < kFull / 4 ? piece_tokens(tokens, threads, kFull) : tokens);
  to_device(ctx, pieces);
  return pieces;
}

/// What both ops read.
template <class A, class Op>
ScanStream<A> carry_stream(const Op& op) {
  const int64_t E = op.a_log.shape[0], N = op.a_log.shape[1];
  ScanStream<A> in{};
  in.s = op.s.template ptr<A>(), in.s_stride = op.s.row_stride;
  in.a_log = op.a_log.template ptr<float>(), in.dt_bias = op.dt_bias.template ptr<float>();
  in.channels = E, in.states = N, in.segments = op.docs.count;
  return in;
}

template <class A>
void carry_forward(const Context& ctx, const ScanCarryForward& op) {
  ScanStream<A> in = carry_stream<A>(op);
  const int64_t T = op.docs.tokens, S = op.docs.count, E = in.channels, N = in.states;
  in.u = op.u.ptr<A>(), in.u_stride = op.u.row_stride;
  in.b = op.b.ptr<float>(), in.b_stride = op.b.row_stride;
  const ScanPieces pieces = pieces_of(ctx, S - 1, T ? op.docs.offsets[S - 1] : 0, T, E);
  float* const states = ctx.scratch->array<float>(pieces.cuts() * N * E, "scan carry");
  carry<A, true>(ctx, in, {}, pieces, states, {op.h_end.ptr<float>(), op.decay.ptr<float>(), T > 0 && S > 1});
}

template <class A>
void carry_backward(const Context& ctx, const ScanCarryBackward& op) {
  ScanStream<A> in = carry_stream<A>(op);
  const int64_t T = op.docs.tokens, E = in.channels, N = in.states;
  if (op.z) in.z = op.z.ptr<A>(), in.z_stride = op.z.row_stride;
  in.c = op.c.ptr<float>(), in.c_stride = op.c.row_stride;
  const ScanPieces pieces = pieces_of(ctx, 0, 0, T ? op.docs.offsets[1] : 0, E);
  float* const states = ctx.scratch->array<float>(pieces.cuts() * N * E, "scan carry");
  carry<A, false>(ctx, in, {op.d_out.ptr<A>(), op.d_out.row_stride, nullptr}, pieces, states,
                  {op.dh0.ptr<float>(), nullptr, false});
}

}  // namespace

template <class A>
void scan_entering_states(const Context& ctx, const ScanStream<A>& in, const ScanPieces& pieces,
                          float* states) {
  carry<A, true>(ctx, in, {}, pieces, states, {});
}
template <class A>
void scan_entering_gradients(const Context& ctx, const ScanStream<A>& in,
                             const ScanCarryGradients<A>& gradients, const ScanPieces& pieces,
                             float* states) {
  carry<A, false>(ctx, in, gradients, pieces, states, {});
}
template void scan_entering_states(const Context&, const ScanStream<float>&, const ScanPieces&, float*);
template void scan_entering_states(const Context&, const ScanStream<bf16>&, const ScanPieces&, float*);
template void scan_entering_gradients(const Context&, const ScanStream<float>&,
                                      const ScanCarryGradients<float>&, const ScanPieces&, float*);
template void scan_entering_gradients(const Context&, const ScanStream<bf16>&,
                                      const ScanCarryGradients<bf16>&, const ScanPieces&, float*);

void CudaOps::scan_carry_forward(Context& ctx, const ScanCarryForward& op) {
  check_op(op);
  ArenaScope scope(*ctx.scratch);
  (act_kind(op.s) ? carry_forward<bf16> : carry_forward<float>)(ctx, op);
}

void CudaOps::scan_carry_backward(Context& ctx, const ScanCarryBackward& op) {
  check_op(op);
  ArenaScope scope(*ctx.scratch);
  (act_kind(op.s) ? carry_backward<bf16> : carry_backward<float>)(ctx, op);
}

}  // namespace jambalaya::cuda
