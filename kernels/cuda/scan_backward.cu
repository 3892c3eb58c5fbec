// Selective scan, backward: pieces, slabs and the sums over blocks. The walk itself is in
// scan_backward_walk.h. Legend: kernels/ops.h, ops_state_space.h; pieces: scan.h.
//
// Partial sums have a fixed order and no atomic additions: dB and dC of each group of 128 channels, parameter
// gradients of each piece. They exist for one slab at a time, a range of pieces, so that scratch stays
// bounded.
#include "kernels/check.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/scan_backward_walk.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

constexpr int kThreads = 256;

template <class A, class D, bool kAsync, bool kOneBlock>
__global__ __launch_bounds__(kScanThreads,
                             2) void scan_backward_kernel(ScanStream<A> in, ScanBackwardArrays<A, D> out,
                                                          const ScanPiece* pieces, int64_t groups) {
  using Walk = BackwardWalk<A, D, kAsync, kOneBlock>;
  Walk walk{in, out, *dynamic_shared<BackwardTile<A>>()};
  walk.piece = pieces[blockIdx.x / groups];
  walk.e0 = int(blockIdx.x % groups) * kBackwardChannels;
  walk.begin(blockIdx.x);
  BackwardVisit visit{walk.piece.begin, walk.piece.end};
  visit.start((walk.piece.end - 1) / BackwardVisit::kChunk);
  walk.stage(0, visit);
  for (int buffer = 0, more = 1; more; buffer ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // the tile is there; nobody reads the other buffer any more
    BackwardVisit next = visit;
    more = next.next();
    if (more) walk.stage(buffer ^ 1, next);
    walk.prepare(buffer, visit.count(), visit.reverse);
    __syncthreads();
    for (int block = 0; block < walk.padded / kStateBlock; block++) {
      if (walk.active) walk.walk(visit, buffer, block);
      if (!visit.reverse) continue;
      __syncthreads();
      walk.store_channel_sums(visit.token(), visit.count(), block);
      if (!kOneBlock) __syncthreads();
    }
    if (visit.reverse) walk.finish(buffer, visit.token(), visit.count());
    visit = next;
  }
  walk.store_parameter_sums(blockIdx.x / groups);
}

/// db, dc [tokens, N] = sums over the groups of channels, in their order; one thread for each element.
__global__ void scan_coefficient_sums_kernel(const float* sums, int64_t groups, int64_t tokens,
                                             int64_t states, int64_t padded, float* db, int64_t db_stride,
                                             float* dc, int64_t dc_stride) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, size = tokens * 2 * padded;
  if (i >= size) return;
  const int64_t t = i / (2 * padded), k = i % (2 * kStateBlock),
                n = i % (2 * padded) / (2 * kStateBlock) * kStateBlock + k % kStateBlock;
  if (n >= states) return;
  float sum = sums[i];
  for (int64_t g = 1; g < groups; g++) sum += sums[g * size + i];
  if (k < kStateBlock)
    db[t * db_stride + n] = sum;
  else
    dc[t * dc_stride + n] = sum;
}

/// da_log, dd, ddt_bias += sums over pieces, in their order. dA_log = dA A, since A = -exp(A_log).
__global__ void scan_parameter_sums_kernel(const float* sums, int64_t pieces, int64_t channels,
                                           int64_t states, const float* a_log, float* da_log, float* dd,
                                           float* ddt_bias) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, size = (states + 2) * channels;
  if (i >= size) return;
  float sum = 0;
  for (int64_t p = 0; p < pieces; p++) sum += sums[p * size + i];
  const int64_t n = i / channels, e = i % channels;
  if (n < states)
    da_log[e * states + n] -= sum * expf(a_log[e * states + n]);
  else
    (n == states ? dd : ddt_bias)[e] += sum;
}

float* optional(const Tensor& t) { return t ? t.ptr<float>() : nullptr; }

/// Pieces [p0, p1) of the list.
template <class A, class D, bool kAsync, bool kOneBlock>
void run_slab(const Context& ctx, const ScanBackward& op, const ScanStream<A>& in,
              ScanBackwardArrays<A, D> out, const ScanPieces& pieces, int64_t p0, int64_t p1) {
  const int64_t E = in.channels, N = in.states, groups = div_up(E, kBackwardChannels), count = p1 - p0;
  const int64_t state_blocks = div_up(N, kStateBlock), padded = state_blocks * kStateBlock,
                blocks = groups * count;
  out.begin = pieces.all[size_t(p0)].begin, out.tokens = pieces.all[size_t(p1 - 1)].end - out.begin;
  ArenaScope scope(*ctx.scratch);
  auto take = [&](int64_t floats) { return ctx.scratch->array<float>(floats, "scan"); };
  out.entries = take(blocks * BackwardVisit::kTiles * state_blocks * 16 * kScanThreads);
  out.memory = take(kOneBlock ? 0 : blocks * state_blocks * 3 * 16 * kScanThreads);
  out.coefficient_sums = take(groups * out.tokens * 2 * padded);
  out.parameter_sums = take(count * (N + 2) * E);
  launch(ctx, "scan_backward", scan_backward_kernel<A, D, kAsync, kOneBlock>,
         {grid_of(blocks), kScanThreads, BackwardWalk<A, D, kAsync, kOneBlock>::shared_bytes(N)}, in, out,
         pieces.device_all + p0, groups);
  launch(ctx, "scan_coefficient_sums", scan_coefficient_sums_kernel,
         {grid_of(div_up(out.tokens * 2 * padded, kThreads)), kThreads}, out.coefficient_sums, groups,
         out.tokens, N, padded, op.db.ptr<float>() + out.begin * op.db.row_stride, op.db.row_stride,
         op.dc.ptr<float>() + out.begin * op.dc.row_stride, op.dc.row_stride);
  launch(ctx, "scan_parameter_sums", scan_parameter_sums_kernel,
         {grid_of(div_up((N + 2) * E, kThreads)), kThreads}, out.parameter_sums, count, E, N, in.a_log,
         op.da_log.ptr<float>(), op.dd.ptr<float>(), op.ddt_bias.ptr<float>());
}

/// Blocks wanted: two for each of 132 multiprocessors, twice over.
constexpr int64_t kBlocks = 512;
/// No piece is longer, and a slab holds kBlocks of these: 256 MB of partial sums of dB and dC with 16 states.
constexpr int64_t kLongestPiece = 4096;

template <class A, class D>
void backward(const Context& ctx, const ScanBackward& op) {
  const Documents docs = device_documents(ctx, op.docs);
  const ScanStream<A> in = scan_stream<A>(op, docs.device_offsets);
  const int64_t T = docs.tokens, E = in.channels, N = in.states, groups = div_up(E, kBackwardChannels);
  const int64_t longest = std::min(kLongestPiece, piece_tokens(T, groups, kBlocks));
  ScanPieces pieces = cut_scan(docs, longest, longest);
  to_device(ctx, pieces);
  float* const entering = ctx.scratch->array<float>(pieces.cuts() * N * E, "scan");
  if (pieces.cuts())
    scan_entering_gradients<A>(ctx, in, {op.d_out.ptr<A>(), op.d_out.row_stride, optional(op.dh_last)},
                               pieces, entering);
  ScanBackwardArrays<A, D> out{.segment_of = docs.device_segment_of,
                               .d_out = op.d_out.ptr<A>(),
                               .du = op.du.ptr<D>(),
                               .ds = op.ds.ptr<A>(),
                               .dz = op.z ? op.dz.ptr<A>() : nullptr,
                               .d_out_stride = op.d_out.row_stride,
                               .du_stride = op.du.row_stride,
                               .ds_stride = op.ds.row_stride,
                               .dz_stride = op.dz.row_stride,
                               .kept = op.states.ptr<float>(),
                               .dh_last = optional(op.dh_last),
                               .dh0 = optional(op.dh0),
                               .entering = entering};
  const bool rows = access_width(E, op.u, op.s, op.z, op.d_out, op.du, op.ds, op.dz) == 8 &&
                    access_width(N, op.b, op.c) >= 4;
  auto kernel = N > kStateBlock            ? run_slab<A, D, false, false>
                : rows && N == kStateBlock ? run_slab<A, D, true, true>
                                           : run_slab<A, D, false, true>;
  const int64_t slab = kBlocks * kLongestPiece * kStateBlock /
                       std::max<int64_t>(groups * div_up(N, kStateBlock) * kStateBlock, 1);
  const int64_t count = int64_t(pieces.all.size());
  for (int64_t p0 = 0, p1; p0 < count && E; p0 = p1) {
    const int64_t begin = pieces.all[size_t(p0)].begin;
    for (p1 = p0 + 1; p1 < count && pieces.all[size_t(p1)].end - begin <= slab;) p1++;
    kernel(ctx, op, in, out, pieces, p0, p1);
  }
}

}  // namespace

void CudaOps::scan_backward(Context& ctx, const ScanBackward& op) {
  check_op(op);
  ArenaScope scope(*ctx.scratch);
  if (!act_kind(op.u))
    backward<float, float>(ctx, op);
  else
    (op.du.dtype == DType::f32 ? backward<bf16, float> : backward<bf16, bf16>)(ctx, op);
  scan_pass_empty(ctx, op.docs, op.dh_last, op.dh0, op.ends_only, 0);
}

}  // namespace jambalaya::cuda
