// Selective scan, forward. Legend: kernels/ops.h, ops_state_space.h; pieces: scan.h.
//
// A block walks one piece for 128 / kLanes channels, tile by tile of 16 tokens. Each channel's 16 states lie
// in the registers of kLanes neighbouring threads: 1 where channels are many (fewest instructions), 4 where
// they are few (most threads). What each token needs once per channel (delta, delta u, the gate) is computed
// by all threads together before and after the walk. Bound by the unit for exponentials: one per state and
// token, and four for softplus and the gate; the next tile's inputs arrive meanwhile.
//
// y is summed over groups of four states and then pairwise, so that all kLanes give the same bits.
#include "kernels/check.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/scan_tile.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

constexpr int kTile = 16;

template <class A>
struct ForwardOutputs {
  A* o;
  int64_t o_stride;
  float *h_last, *kept;  ///< end states, [ceil(T / kScanChunk), N, E]; or null
  float* ranges;         ///< [blocks][2]: smallest and largest delta of each, or null
};

template <class A, int kChannels>
struct ForwardTile {
  A raw[2][3][kTile][kChannels];  ///< u, s, z: this tile's and the next one's
  float delta[kTile][kChannels], drive[kTile][kChannels], y[kTile][kChannels];  ///< drive = delta u
};

template <class A, int kLanes, bool kAsync, bool kOneBlock>
struct ForwardWalk {
  static constexpr int kChannels = kScanThreads / kLanes, kStates = kStateBlock / kLanes;
  /// Channels that one thread handles before and after the walk.
  static constexpr int kVector = kAsync ? 2 : 1, kRows = kScanThreads * kVector / kChannels;
  using Tile = ForwardTile<A, kChannels>;

  const ScanStream<A>& in;
  const ForwardOutputs<A>& out;
  Tile& tile;
  float *b, *c;   ///< [2][kTile][padded]
  float* memory;  ///< without kOneBlock: [blocks][2][kScanThreads][kStates], rates and states
  int64_t e0, e;  ///< the block's first channel, this thread's in the walk
  int lane, padded;
  int column, row;  ///< in the tile, before and after the walk
  int64_t segment, segment_end;
  const float* start;  ///< state that enters the piece
  bool fresh = true;
  float h[kStates], rate[kStates];
  float bias[kVector], skip[kVector], low = 3e38f, high = 0;

  static size_t shared_bytes(int64_t states) {
    const int64_t blocks = div_up(states, kStateBlock);
    const int64_t floats =
        4 * kTile * kStateBlock * blocks + (kOneBlock ? 0 : 2 * kScanThreads * kStates * blocks);
    return sizeof(Tile) + size_t(floats) * 4;
  }

  __device__ void begin() {
    padded = kOneBlock ? kStateBlock : int((in.states + kStateBlock - 1) / kStateBlock * kStateBlock);
    b = reinterpret_cast<float*>(&tile + 1), c = b + 2 * kTile * padded, memory = c + 2 * kTile * padded;
    lane = int(threadIdx.x) % kLanes, e = e0 + threadIdx.x / kLanes;
    column = int(threadIdx.x) % (kChannels / kVector) * kVector,
    row = int(threadIdx.x) / (kChannels / kVector);
    for (int block = 0; block < padded / kStateBlock; block++) {
#pragma unroll
      for (int j = 0; j < kStates; j++) rate[j] = decay_rate(in, e, block * kStateBlock + lane * kStates + j);
      if (!kOneBlock) exchange<true>(block, 0, rate);
    }
#pragma unroll
    for (int i = 0; i < kVector; i++) {
      const int64_t channel = e0 + column + i;
      bias[i] = channel < in.channels ? in.dt_bias[channel] : 0.f;
      skip[i] = channel < in.channels ? in.d[channel] : 0.f;
    }
  }
  /// This thread's part of a state block between registers and shared memory.
  template <bool kStore>
  __device__ __forceinline__ void exchange(int block, int which, float (&x)[kStates]) {
    float* const at = memory + ((2 * block + which) * kScanThreads + int(threadIdx.x)) * kStates;
    if constexpr (kStore)
      store<kStates>(at, x);
    else
      load<kStates>(x, at);
  }

  __device__ void stage(int buffer, int64_t t, int count) {
    stage_rows<kAsync, kTile>(tile.raw[buffer][0], in.u, in.u_stride, t, count, e0, in.channels);
    stage_rows<kAsync, kTile>(tile.raw[buffer][1], in.s, in.s_stride, t, count, e0, in.channels);
    if (in.z) stage_rows<kAsync, kTile>(tile.raw[buffer][2], in.z, in.z_stride, t, count, e0, in.channels);
    const int at = buffer * kTile * padded;
    stage_coefficients<kAsync>(b + at, in.b, in.b_stride, t, count, int(in.states), padded);
    stage_coefficients<kAsync>(c + at, in.c, in.c_stride, t, count, int(in.states), padded);
    if constexpr (kAsync) cp_async_commit();
  }

  __device__ __forceinline__ void prepare(int buffer, int count) {
#pragma unroll 2
    for (int i = row; i < count; i += kRows) {
      float u[kVector], s[kVector];
      load<kVector>(u, &tile.raw[buffer][0][i][column]);
      load<kVector>(s, &tile.raw[buffer][1][i][column]);
#pragma unroll
      for (int k = 0; k < kVector; k++) {
        s[k] = softplus(s[k] + bias[k]);
        u[k] *= s[k];
        if (e0 + column + k < in.channels) low = fminf(low, s[k]), high = fmaxf(high, s[k]);
      }
      store<kVector>(&tile.delta[i][column], s);
      store<kVector>(&tile.drive[i][column], u);
    }
  }

  /// h = exp(delta A) h + delta u B, y = C h over tokens [i0, i1) of the tile.
  __device__ __forceinline__ void advance(int buffer, int block, int i0, int i1) {
    const int channel = int(threadIdx.x) / kLanes;
    const int at = buffer * kTile * padded + block * kStateBlock + lane * kStates;
#pragma unroll 2
    for (int i = i0; i < i1; i++) {
      const float delta = tile.delta[i][channel], drive = tile.drive[i][channel];
      float y[kStates / 4];
#pragma unroll
      for (int g = 0; g < kStates / 4; g++) {
        float bs[4], cs[4];
        load<4>(bs, b + at + i * padded + 4 * g);
        load<4>(cs, c + at + i * padded + 4 * g);
#pragma unroll
        for (int j = 0; j < 4; j++) {
          float& state = h[4 * g + j];
          state = fmaf(ex2(delta * rate[4 * g + j]), state, drive * bs[j]);
          y[g] = j ? fmaf(state, cs[j], y[g]) : state * cs[j];
        }
      }
#pragma unroll
      for (int step = 1; step < kStates / 4; step *= 2)
#pragma unroll
        for (int g = 0; g < kStates / 4; g += 2 * step) y[g] += y[g + step];
#pragma unroll
      for (int step = 1; step < kLanes; step *= 2) y[0] += __shfl_xor_sync(kAllLanes, y[0], step);
      if (lane == 0) tile.y[i][channel] = block ? tile.y[i][channel] + y[0] : y[0];
    }
  }

  /// Run by run: a run is the part of a segment inside the tile.
  __device__ void walk(int buffer, int64_t t, int count) {
    const int64_t size = in.states * in.channels;
    for (int i = 0, end; i < count; i = end) {
      const bool starts = fresh || t + i == segment_end;
      if (starts && !fresh) {
        do segment++, segment_end = in.offsets[segment + 1];
        while (segment_end == t + i);
        start = start_entry(in.h0, size, segment, in.ends_only);
      }
      fresh = false;
      end = segment_end - t < count ? int(segment_end - t) : count;
      float* const kept =
          out.kept && (t + i) % kScanChunk == 0 ? out.kept + (t + i) / kScanChunk * size : nullptr;
      float* const last =
          t + end == segment_end ? end_entry(out.h_last, size, segment, in.segments, in.ends_only) : nullptr;
      for (int block = 0; block < padded / kStateBlock; block++) {
        const int64_t n = block * kStateBlock + lane * kStates;
        if (!kOneBlock) exchange<false>(block, 0, rate), exchange<false>(block, 1, h);
        if (starts) load_states(h, start, e, n, in.channels, in.states);
        if (kept) store_states(kept, h, e, n, in.channels, in.states);
        advance(buffer, block, i, end);
        if (last) store_states(last, h, e, n, in.channels, in.states);
        if (!kOneBlock) exchange<true>(block, 1, h);
      }
    }
  }

  /// o = (y + D u) SiLU(z).
  __device__ __forceinline__ void finish(int buffer, int64_t t, int count) {
    if (e0 + column >= in.channels) return;
#pragma unroll 2
    for (int i = row; i < count; i += kRows) {
      float u[kVector], y[kVector], z[kVector];
      load<kVector>(u, &tile.raw[buffer][0][i][column]);
      load<kVector>(y, &tile.y[i][column]);
      if (in.z) load<kVector>(z, &tile.raw[buffer][2][i][column]);
#pragma unroll
      for (int k = 0; k < kVector; k++) {
        y[k] = fmaf(skip[k], u[k], y[k]);
        if (in.z) y[k] *= silu(z[k]);
      }
      store<kVector>(out.o + (t + i) * out.o_stride + e0 + column, y);
    }
  }
};

__device__ __forceinline__ int tile_count(int64_t t, int64_t end) {
  const int64_t next = (t / kTile + 1) * kTile;
  return int((next < end ? next : end) - t);
}

template <class A, int kLanes, bool kAsync, bool kOneBlock>
__global__ __launch_bounds__(kScanThreads, kLanes == 1 ? 4 : 5) void scan_forward_kernel(
    ScanStream<A> in, ForwardOutputs<A> out, const ScanPiece* pieces, int64_t groups, const float* entering) {
  using Walk = ForwardWalk<A, kLanes, kAsync, kOneBlock>;
  const ScanPiece piece = pieces[blockIdx.x / groups];
  Walk walk{in, out, *dynamic_shared<typename Walk::Tile>()};
  walk.e0 = blockIdx.x % groups * Walk::kChannels;
  walk.segment = piece.segment, walk.segment_end = in.offsets[piece.segment + 1];
  const int64_t size = in.states * in.channels;
  walk.start =
      piece.slot >= 0 ? entering + piece.slot * size : start_entry(in.h0, size, piece.segment, in.ends_only);
  walk.begin();
  int count = tile_count(piece.begin, piece.end), buffer = 0;
  walk.stage(buffer, piece.begin, count);
  for (int64_t t = piece.begin; t < piece.end; buffer ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // the tile is there; nobody reads the other buffer any more
    const int next = t + count < piece.end ? tile_count(t + count, piece.end) : 0;
    if (next) walk.stage(buffer ^ 1, t + count, next);
    walk.prepare(buffer, count);
    __syncthreads();
    walk.walk(buffer, t, count);
    __syncthreads();
    walk.finish(buffer, t, count);
    t += count, count = next;
  }
  if (!out.ranges) return;
  __syncthreads();
  float* const shared = &walk.tile.y[0][0];
  const float low = -block_reduce<kScanThreads / 32>(-walk.low, shared, Max()),
              high = block_reduce<kScanThreads / 32>(walk.high, shared, Max());
  if (threadIdx.x == 0) out.ranges[2 * blockIdx.x] = low, out.ranges[2 * blockIdx.x + 1] = high;
}

constexpr int kRangeThreads = 256;

/// The smallest and the largest of all blocks'; 0 without blocks. One block.
__global__ void scan_delta_range_kernel(const float* ranges, int64_t blocks, float* range) {
  __shared__ float shared[kRangeThreads / 32];
  float low = blocks ? 3e38f : 0.f, high = 0;
  for (int64_t i = threadIdx.x; i < blocks; i += kRangeThreads)
    low = fminf(low, ranges[2 * i]), high = fmaxf(high, ranges[2 * i + 1]);
  low = -block_reduce<kRangeThreads / 32>(-low, shared, Max());
  high = block_reduce<kRangeThreads / 32>(high, shared, Max());
  if (threadIdx.x == 0) range[0] = low, range[1] = high;
}

template <class A, int kLanes, bool kAsync, bool kOneBlock>
void start(const Context& ctx, const ScanForward& op, const ScanStream<A>& in, const ScanPieces& pieces,
           const float* entering) {
  using Walk = ForwardWalk<A, kLanes, kAsync, kOneBlock>;
  const int64_t groups = div_up(in.channels, Walk::kChannels), blocks = groups * int64_t(pieces.all.size());
  ForwardOutputs<A> out{.o = op.o.ptr<A>(),
                        .o_stride = op.o.row_stride,
                        .h_last = op.h_last ? op.h_last.ptr<float>() : nullptr,
                        .kept = op.states ? op.states.ptr<float>() : nullptr,
                        .ranges = nullptr};
  if (op.delta_range) out.ranges = ctx.scratch->array<float>(2 * blocks, "scan");
  launch(ctx, "scan_forward", scan_forward_kernel<A, kLanes, kAsync, kOneBlock>,
         {grid_of(blocks), kScanThreads, Walk::shared_bytes(in.states)}, in, out, pieces.device_all, groups,
         entering);
  if (op.delta_range)
    launch(ctx, "scan_delta_range", scan_delta_range_kernel, {1, kRangeThreads}, out.ranges, blocks,
           op.delta_range.ptr<float>());
}

/// Threads wanted before channels get fewer of them each: eight warps for each of 132 multiprocessors and
/// more.
constexpr int64_t kFull = int64_t(1) << 16;

template <class A>
void forward(const Context& ctx, const ScanForward& op) {
  const Documents docs = device_documents(ctx, op.docs);
  const ScanStream<A> in = scan_stream<A>(op, docs.device_offsets);
  const int64_t T = docs.tokens, E = in.channels, N = in.states;
  // Segments that are walked at a time, and with four threads a channel too few: cut (1.7 times the work).
  const int64_t longest = longest_segment(docs), side_by_side = longest ? T / longest : 0;
  const int64_t piece = 4 * E * side_by_side < kFull / 4 ? piece_tokens(T, 4 * E, kFull) : longest;
  const int64_t group = std::clamp<int64_t>(T * div_up(E, 32) / 1024, 1, 256);
  ScanPieces pieces = cut_scan(docs, piece, group);
  to_device(ctx, pieces);
  float* const entering = ctx.scratch->array<float>(pieces.cuts() * N * E, "scan");
  if (pieces.cuts()) scan_entering_states(ctx, in, pieces, entering);
  const int64_t threads = E * (piece ? T / std::min(piece, std::max<int64_t>(longest, 1)) : 0);
  const bool wide =
      N == kStateBlock && access_width(E, op.u, op.s, op.z, op.o) == 8 && access_width(N, op.b, op.c) >= 4;
  if (N > kStateBlock)
    start<A, 4, false, false>(ctx, op, in, pieces, entering);
  else if (!wide)
    start<A, 4, false, true>(ctx, op, in, pieces, entering);
  else if (threads < kFull / 2)
    start<A, 4, true, true>(ctx, op, in, pieces, entering);
  else if (threads < kFull)
    start<A, 2, true, true>(ctx, op, in, pieces, entering);
  else
    start<A, 1, true, true>(ctx, op, in, pieces, entering);
}

}  // namespace

void CudaOps::scan_forward(Context& ctx, const ScanForward& op) {
  check_op(op);
  const int64_t S = op.docs.count;
  ArenaScope scope(*ctx.scratch);
  (act_kind(op.u) ? forward<bf16> : forward<float>)(ctx, op);
  scan_pass_empty(ctx, op.docs, op.h0, op.h_last, op.ends_only, S - 1);
}

}  // namespace jambalaya::cuda
