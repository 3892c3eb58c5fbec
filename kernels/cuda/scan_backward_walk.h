// How a block walks one piece backwards (scan_backward.cu). With h the states and g their gradients, last
// token to first, a = exp(delta A):
//   g = C dy + carry;  carry = a g;  m = carry h[t-1];  y = sum_n C h;  dC = sum over channels of dy h;
//   dB = sum over channels of g delta u;  gb = sum_n g B;  ma = sum_n m A;  dA = sum_t m delta;
//   du = delta gb + D dy;  ds = (ma + u gb) softplus'(s);  dz = d_out (y + D u) SiLU'(z).
//
// States are kept every kScanChunk tokens. Of a chunk, last to first, the states that enter each tile of
// kTile tokens are computed forward and put by (`entries`); then, last tile to first, the tile's states once
// more, into shared memory, and the walk backwards over them.
//
// A warp takes 32 channels x 16 states: lane 4 g + q has channels 4 g .. 4 g + 3 and states 4 q .. 4 q + 3.
// Sums over states (y, gb, ma) are over 4 lanes: products by a matrix of ones on the tensor cores. Sums over
// channels (dB, dC) are first over a lane's own 4, then by exchange over the 8 values of g. Bound by issued
// instructions.
#pragma once
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/scan_tile.h"

namespace jambalaya::cuda {

/// A is the act dtype, D that of du. Scratch arrays are those of one slab: a range of pieces.
template <class A, class D>
struct ScanBackwardArrays {
  const int32_t* segment_of;
  const A* d_out;
  D* du;
  A *ds, *dz;  ///< dz null with z
  int64_t d_out_stride, du_stride, ds_stride, dz_stride;
  const float *kept, *dh_last;
  float* dh0;
  const float* entering;    ///< [cuts][N][E] gradients that enter pieces of cut segments from the right
  float* entries;           ///< [blocks][tiles of a chunk][state blocks][16][kScanThreads]
  float* memory;            ///< with several state blocks: [blocks][state blocks][3][16][kScanThreads]
  float* coefficient_sums;  ///< [groups of channels][tokens][state blocks][dB 16, dC 16]
  float* parameter_sums;    ///< [pieces][N + 2][E]: dA, dD, ddt_bias
  int64_t begin, tokens;    ///< of the slab
};

constexpr int kBackwardTile = 8, kBackwardChannels = kScanThreads, kBackwardWarps = kScanThreads / 32;

template <class A>
struct BackwardTile {
  float before[kBackwardTile][kBackwardWarps][4][32][4];  ///< h[t - 1]
  float delta[kBackwardTile][kBackwardChannels], drive[kBackwardTile][kBackwardChannels],
      dy[kBackwardTile][kBackwardChannels];
  float sums[3][kBackwardTile][kBackwardChannels];  ///< ma, gb, y
  float channel_sums[kBackwardWarps][kBackwardTile][2 * kStateBlock];
  A raw[2][4][kBackwardTile][kBackwardChannels];  ///< u, s, z, d_out: this visit's and the next one's
};

/// The order in which a block visits the tiles of a piece.
struct BackwardVisit {
  static constexpr int kChunk = int(kScanChunk), kTiles = kChunk / kBackwardTile;
  int begin, end;  ///< of the piece
  int chunk;
  int tile, first, last;  ///< in the chunk
  bool reverse;

  __device__ void start(int c) {
    chunk = c;
    const int t = c * kChunk;
    first = begin > t ? (begin - t) / kBackwardTile : 0;
    last = (end - 1 - t) / kBackwardTile < kTiles - 1 ? (end - 1 - t) / kBackwardTile : kTiles - 1;
    tile = first, reverse = first == last;
  }
  /// False after the piece's first tile.
  __device__ bool next() {
    if (!reverse) {
      tile++, reverse = tile == last;
    } else if (tile > first) {
      tile--;
    } else {
      if (chunk * kChunk <= begin) return false;
      start(chunk - 1);
    }
    return true;
  }
  __device__ int token() const {
    const int t = chunk * kChunk + tile * kBackwardTile;
    return t < begin ? begin : t;
  }
  __device__ int count() const {
    const int left = end - chunk * kChunk - tile * kBackwardTile;  // tokens beyond 2^31 would overflow a sum
    return (left < kBackwardTile ? left : kBackwardTile) - (token() - chunk * kChunk - tile * kBackwardTile);
  }
};

template <class A, class D, bool kAsync, bool kOneBlock>
struct BackwardWalk {
  static constexpr int kTile = kBackwardTile, kChannels = kBackwardChannels;
  /// Channels that one thread handles before and after the walk.
  static constexpr int kVector = kAsync ? 2 : 1, kRows = kScanThreads * kVector / kChannels;
  using States = float[4][4];  ///< channel, state

  const ScanStream<A>& in;
  const ScanBackwardArrays<A, D>& out;
  BackwardTile<A>& tile;
  ScanPiece piece;
  float *b, *c;             ///< [2][kTile][padded]
  float *entries, *memory;  ///< this thread's of this block
  int e0, e;                ///< the block's first channel, this lane's first
  int warp, lane, padded, column, row;
  bool active;  ///< the warp has channels
  States h, rate, carry, drate;
  float bias[kVector], skip[kVector], dskip[kVector], dbias[kVector];

  static size_t shared_bytes(int64_t states) {
    return sizeof(BackwardTile<A>) + size_t(4 * kTile * div_up(states, kStateBlock) * kStateBlock) * 4;
  }

  __device__ void begin(int64_t block) {
    padded = kOneBlock ? kStateBlock : int((in.states + kStateBlock - 1) / kStateBlock * kStateBlock);
    const int blocks = padded / kStateBlock;
    b = reinterpret_cast<float*>(&tile + 1), c = b + 2 * kTile * padded;
    warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    e = e0 + 32 * warp + lane / 4 * 4, active = e0 + 32 * warp < in.channels;
    column = int(threadIdx.x) % (kChannels / kVector) * kVector,
    row = int(threadIdx.x) / (kChannels / kVector);
    entries = out.entries + block * BackwardVisit::kTiles * blocks * 16 * kScanThreads + 4 * threadIdx.x;
    memory = out.memory + block * blocks * 3 * 16 * kScanThreads + 4 * threadIdx.x;
    for (int k = 0; k < blocks; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          rate[i][j] = decay_rate(in, e + i, k * kStateBlock + lane % 4 * 4 + j);
          carry[i][j] = drate[i][j] = 0.f;
        }
      if (!kOneBlock) exchange<true>(k);
    }
#pragma unroll
    for (int i = 0; i < kVector; i++) {
      const int64_t channel = e0 + column + i;
      bias[i] = channel < in.channels ? in.dt_bias[channel] : 0.f;
      skip[i] = channel < in.channels ? in.d[channel] : 0.f;
      dskip[i] = dbias[i] = 0.f;
    }
  }

  __device__ __forceinline__ int64_t size() const { return in.states * in.channels; }

  // ---- states between registers and memory ----
  template <bool kStore>
  __device__ __forceinline__ static void exchange(float* at, States& x) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if constexpr (kStore)
        store<4>(at + i * 4 * kScanThreads, x[i]);
      else
        load<4>(x[i], at + i * 4 * kScanThreads);
    }
  }
  /// Of several state blocks all but one wait in memory.
  template <bool kStore>
  __device__ __forceinline__ void exchange(int block) {
    float* const at = memory + block * 3 * 16 * kScanThreads;
    exchange<kStore>(at, rate), exchange<kStore>(at + 16 * kScanThreads, carry);
    exchange<kStore>(at + 32 * kScanThreads, drate);
  }
  __device__ __forceinline__ float* entry(int tile_of_chunk, int block) const {
    return entries + (tile_of_chunk * (padded / kStateBlock) + block) * 16 * kScanThreads;
  }
  /// An entry [N, E] of the menu's; a null source is zero.
  __device__ __forceinline__ void load_entry(States& x, const float* from, int block) const {
    const int n = block * kStateBlock + lane % 4 * 4;
    if (from) from += n * in.channels + e;
#pragma unroll
    for (int j = 0; j < 4; j++, from += from ? in.channels : 0)
#pragma unroll
      for (int i = 0; i < 4; i++) x[i][j] = from && e + i < in.channels && n + j < in.states ? from[i] : 0.f;
  }
  __device__ __forceinline__ void store_entry(float* to, const States& x, int block) const {
    const int n = block * kStateBlock + lane % 4 * 4;
    to += n * in.channels + e;
#pragma unroll
    for (int j = 0; j < 4; j++, to += in.channels)
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (e + i < in.channels && n + j < in.states) to[i] = x[i][j];
  }
  /// The state that enters a visit's first token: at the chunk's begin what the forward kept or, where the
  /// piece begins inside the chunk, the segment's start state; else what was put by.
  __device__ __forceinline__ void load_state(const BackwardVisit& v, int block) {
    if (v.tile != v.first) return exchange<false>(entry(v.tile, block), h);
    const int t = v.token();
    load_entry(h,
               t % BackwardVisit::kChunk == 0 ? out.kept + v.chunk * size()
                                              : start_entry(in.h0, size(), out.segment_of[t], in.ends_only),
               block);
  }

  // ---- tiles ----
  __device__ void stage(int buffer, const BackwardVisit& v) {
    const int t = v.token();
    const int count = v.count(), at = buffer * kTile * padded;
    auto& raw = tile.raw[buffer];
    stage_rows<kAsync, kTile>(raw[0], in.u, in.u_stride, t, count, e0, in.channels);
    stage_rows<kAsync, kTile>(raw[1], in.s, in.s_stride, t, count, e0, in.channels);
    stage_coefficients<kAsync>(b + at, in.b, in.b_stride, t, count, int(in.states), padded);
    if (v.reverse) {
      if (in.z) stage_rows<kAsync, kTile>(raw[2], in.z, in.z_stride, t, count, e0, in.channels);
      stage_rows<kAsync, kTile>(raw[3], out.d_out, out.d_out_stride, t, count, e0, in.channels);
      stage_coefficients<kAsync>(c + at, in.c, in.c_stride, t, count, int(in.states), padded);
    }
    if constexpr (kAsync) cp_async_commit();
  }

  __device__ __forceinline__ void prepare(int buffer, int count, bool reverse) {
    for (int i = row; i < count; i += kRows) {
      float u[kVector], s[kVector], dy[kVector], z[kVector];
      load<kVector>(u, &tile.raw[buffer][0][i][column]);
      load<kVector>(s, &tile.raw[buffer][1][i][column]);
#pragma unroll
      for (int k = 0; k < kVector; k++) s[k] = softplus(s[k] + bias[k]), u[k] *= s[k];
      store<kVector>(&tile.delta[i][column], s);
      store<kVector>(&tile.drive[i][column], u);
      if (!reverse) continue;
      load<kVector>(dy, &tile.raw[buffer][3][i][column]);
      if (in.z) {
        load<kVector>(z, &tile.raw[buffer][2][i][column]);
#pragma unroll
        for (int k = 0; k < kVector; k++) dy[k] *= silu(z[k]);
      }
      store<kVector>(&tile.dy[i][column], dy);
    }
  }

  /// h of token i of the tile from h of the token before.
  __device__ __forceinline__ void step(int i, const float* b_row) {
    float delta[4], drive[4], bs[4];
    load<4>(delta, &tile.delta[i][e - e0]);
    load<4>(drive, &tile.drive[i][e - e0]);
    load<4>(bs, b_row + i * padded);
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
      for (int j = 0; j < 4; j++) h[k][j] = fmaf(ex2(delta[k] * rate[k][j]), h[k][j], drive[k] * bs[j]);
  }
  /// Forward over the tile, run by run (a run is the part of a segment inside the tile). kKeep: into
  /// `before`.
  template <bool kKeep>
  __device__ __forceinline__ void forward(int t, int count, int block, const float* b_row) {
    for (int i = 0, end; i < count; i = end) {
      const int s = out.segment_of[t + i], segment_end = in.offsets[s + 1] - t;
      end = segment_end < count ? segment_end : count;
      if (t + i == in.offsets[s]) load_entry(h, start_entry(in.h0, size(), s, in.ends_only), block);
#pragma unroll 2
      for (int k = i; k < end; k++) {
        if (kKeep)
#pragma unroll
          for (int m = 0; m < 4; m++) store<4>(tile.before[k][warp][m][lane], h[m]);
        if (!kKeep || k + 1 < end) step(k, b_row);
      }
    }
  }

  /// One token backwards; h is its state on entry and the state before it on return.
  __device__ __forceinline__ void back(int i, const float* b_row, const float* c_row, int block) {
    float delta[4], drive[4], dy[4], bs[4], cs[4];
    load<4>(delta, &tile.delta[i][e - e0]);
    load<4>(drive, &tile.drive[i][e - e0]);
    load<4>(dy, &tile.dy[i][e - e0]);
    load<4>(bs, b_row + i * padded);
    load<4>(cs, c_row + i * padded);
    float channel_sums[8] = {}, ma[4], gb[4], y[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
      float before[4];
      load<4>(before, tile.before[i][warp][k][lane]);
      ma[k] = gb[k] = y[k] = 0.f;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const float g = fmaf(cs[j], dy[k], carry[k][j]);
        y[k] = fmaf(h[k][j], cs[j], y[k]);
        channel_sums[4 + j] = fmaf(dy[k], h[k][j], channel_sums[4 + j]);
        channel_sums[j] = fmaf(g, drive[k], channel_sums[j]);
        gb[k] = fmaf(g, bs[j], gb[k]);
        carry[k][j] = g * ex2(delta[k] * rate[k][j]);
        const float m = carry[k][j] * before[j];
        ma[k] = fmaf(m, rate[k][j], ma[k]);
        drate[k][j] = fmaf(m, delta[k], drate[k][j]);
        h[k][j] = before[j];
      }
    }
    sum_states(i, ma, gb, y, block);
    sum_channels(i, channel_sums);
  }

  /// Sums over the four lanes of a channel group, by tensor cores: row g (g + 8) of the left operand is
  /// channel 0 (1) of lane group g in columns 0-3 and channel 2 (3) in columns 4-7; the right operand selects
  /// columns of the result, two for each of ma, gb and y, which therefore end in lanes q = 0, 1 and 2. tf32
  /// has 11 bits, so that each value goes in as the sum of two; y of bf16 activations needs one.
  __device__ __forceinline__ void sum_states(int i, const float (&ma)[4], const float (&gb)[4],
                                             const float (&y)[4], int block) {
    const int g = lane / 4, q = lane % 4;
    float sums[4] = {};
    auto add = [&](const float(&x)[4], int to, bool rest) {
      const float select[2] = {g == 2 * to ? 1.f : 0.f, g == 2 * to + 1 ? 1.f : 0.f};
      const float high[4] = {round_tf32(x[0]), round_tf32(x[1]), round_tf32(x[2]), round_tf32(x[3])};
      mma_tf32(sums, high, select);
      if (!rest) return;
      const float low[4] = {x[0] - high[0], x[1] - high[1], x[2] - high[2], x[3] - high[3]};
      mma_tf32(sums, low, select);
    };
    add(ma, 0, true), add(gb, 1, true), add(y, 2, sizeof(A) == 4);
    if (q == 3) return;
    float* const to = &tile.sums[q][i][e - e0];
    float total[4] = {sums[0], sums[2], sums[1], sums[3]};
    if (!kOneBlock && block) {
      float others[4];
      load<4>(others, to);
#pragma unroll
      for (int k = 0; k < 4; k++) total[k] += others[k];
    }
    store<4>(to, total);
  }

  /// Sums of 8 values over the 8 lane groups: each exchange halves the values that a lane goes on with, so
  /// that 7 suffice and each lane ends with one value, dB of state 4 q + k or (lanes from 16 on) dC.
  __device__ __forceinline__ void sum_channels(int i, const float (&x)[8]) {
    float four[4], two[2];
    const bool high16 = lane & 16, high8 = lane & 8, high4 = lane & 4;
#pragma unroll
    for (int k = 0; k < 4; k++)
      four[k] = (high16 ? x[k + 4] : x[k]) + __shfl_xor_sync(kAllLanes, high16 ? x[k] : x[k + 4], 16);
#pragma unroll
    for (int k = 0; k < 2; k++)
      two[k] = (high8 ? four[k + 2] : four[k]) + __shfl_xor_sync(kAllLanes, high8 ? four[k] : four[k + 2], 8);
    const float one = (high4 ? two[1] : two[0]) + __shfl_xor_sync(kAllLanes, high4 ? two[0] : two[1], 4);
    tile.channel_sums[warp][i][(lane & 16) + lane % 4 * 4 + lane / 4 % 4] = one;
  }

  __device__ __forceinline__ void backward(int t, int count, int block, const float* b_row,
                                           const float* c_row) {
    for (int end = count, i; end > 0; end = i) {
      const int s = out.segment_of[t + end - 1], segment_begin = in.offsets[s] - t;
      i = segment_begin > 0 ? segment_begin : 0;
      if (t + end == in.offsets[s + 1])
        load_entry(carry, end_entry(out.dh_last, size(), s, in.segments, in.ends_only), block);
      else if (t + end == piece.end)
        load_entry(carry, out.entering + piece.slot * size(), block);
#pragma unroll
      for (int m = 0; m < 4; m++) load<4>(h[m], tile.before[end - 1][warp][m][lane]);
      step(end - 1, b_row);
#pragma unroll 1
      for (int k = end - 1; k >= i; k--) back(k, b_row, c_row, block);
      float* const dh0 = t + i == in.offsets[s] ? start_entry(out.dh0, size(), s, in.ends_only) : nullptr;
      if (dh0) store_entry(dh0, carry, block);
    }
  }

  /// A visit's walk over one state block. Forward: what enters the next tile is put by.
  __device__ void walk(const BackwardVisit& v, int buffer, int block) {
    const int t = v.token();
    const int count = v.count(), at = buffer * kTile * padded + block * kStateBlock + lane % 4 * 4;
    if (!kOneBlock) exchange<false>(block);
    if (v.reverse || !kOneBlock || v.tile == v.first) load_state(v, block);
    if (v.reverse) {
      forward<true>(t, count, block, b + at);
      backward(t, count, block, b + at, c + at);
      if (!kOneBlock) exchange<true>(block);
    } else {
      forward<false>(t, count, block, b + at);
      exchange<true>(entry(v.tile + 1, block), h);
    }
  }

  // ---- results ----
  /// dB and dC of the tile and state block, over the block's channels: warps in their order.
  __device__ __forceinline__ void store_channel_sums(int t, int count, int block) {
    const int64_t left = in.channels - e0;
    const int warps = left < kChannels ? int(left + 31) / 32 : kBackwardWarps, blocks = padded / kStateBlock;
    float* const to =
        out.coefficient_sums + (int64_t(e0 / kChannels) * out.tokens + t - out.begin) * 2 * padded;
    for (int i = int(threadIdx.x); i < count * 2 * kStateBlock; i += kScanThreads) {
      const int token = i / (2 * kStateBlock), k = i % (2 * kStateBlock);
      float sum = tile.channel_sums[0][token][k];
      for (int w = 1; w < warps; w++) sum += tile.channel_sums[w][token][k];
      to[(token * blocks + block) * 2 * kStateBlock + k] = sum;
    }
  }

  __device__ __forceinline__ void finish(int buffer, int t, int count) {
    if (e0 + column >= in.channels) return;
    for (int i = row; i < count; i += kRows) {
      float u[kVector], s[kVector], dy[kVector], ma[kVector], gb[kVector], delta[kVector];
      load<kVector>(u, &tile.raw[buffer][0][i][column]);
      load<kVector>(s, &tile.raw[buffer][1][i][column]);
      load<kVector>(dy, &tile.dy[i][column]);
      load<kVector>(delta, &tile.delta[i][column]);
      load<kVector>(ma, &tile.sums[0][i][column]);
      load<kVector>(gb, &tile.sums[1][i][column]);
      const int64_t channel = e0 + column, token = t + i;
      if (in.z) {
        float z[kVector], y[kVector], d_out[kVector];
        load<kVector>(z, &tile.raw[buffer][2][i][column]);
        load<kVector>(d_out, &tile.raw[buffer][3][i][column]);
        load<kVector>(y, &tile.sums[2][i][column]);
#pragma unroll
        for (int k = 0; k < kVector; k++) y[k] = d_out[k] * fmaf(skip[k], u[k], y[k]) * silu_slope(z[k]);
        store<kVector>(out.dz + token * out.dz_stride + channel, y);
      }
#pragma unroll
      for (int k = 0; k < kVector; k++) {
        const float ds = fmaf(ma[k], kLn2, u[k] * gb[k]) * softplus_and_slope(s[k] + bias[k]).slope;
        dskip[k] = fmaf(dy[k], u[k], dskip[k]), dbias[k] += ds;
        u[k] = fmaf(delta[k], gb[k], skip[k] * dy[k]), s[k] = ds;
      }
      store<kVector>(out.du + token * out.du_stride + channel, u);
      store<kVector>(out.ds + token * out.ds_stride + channel, s);
    }
  }

  /// The piece's sums for dA, dD and ddt_bias.
  __device__ void store_parameter_sums(int64_t piece_of_slab) {
    float* const to = out.parameter_sums + piece_of_slab * (in.states + 2) * in.channels;
    for (int block = 0; active && block < padded / kStateBlock; block++) {
      if (!kOneBlock) exchange<false>(block);
      store_entry(to, drate, block);
    }
    __syncthreads();  // the last tile has been read
#pragma unroll
    for (int k = 0; k < kVector; k++) {
      tile.sums[0][row][column + k] = dskip[k];
      tile.sums[1][row][column + k] = dbias[k];
    }
    __syncthreads();
    const int64_t channel = e0 + threadIdx.x;
    if (channel >= in.channels) return;
#pragma unroll
    for (int which = 0; which < 2; which++) {
      float sum = tile.sums[which][0][threadIdx.x];
      for (int r = 1; r < kRows; r++) sum += tile.sums[which][r][threadIdx.x];
      to[(in.states + which) * in.channels + channel] = sum;
    }
  }
};

}  // namespace jambalaya::cuda
