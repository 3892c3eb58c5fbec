// What the kernels of the selective scan share: the stream they read, and how its tokens are cut into pieces
// that blocks walk. Legend: kernels/ops.h, ops_state_space.h.
//
// A piece is a run of whole segments or a part of one. Where channels and segments are too few to fill a GPU,
// long segments are cut: the carry kernels (scan_carry.cu) then find what each part does to a state that
// passes through it, a short serial pass combines these, and every part is walked from the state that enters
// it. All of this follows from shapes alone, never from the device, so that results have the same bits on
// each. Segments of up to kShortestPiece tokens are never cut: their results do not depend, bit for bit, on
// what else is in the stream.
#pragma once
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/ops.h"

namespace jambalaya::cuda {

/// What both directions read; device pointers.
template <class A>
struct ScanStream {
  const A *u, *s, *z;  ///< z may be null
  int64_t u_stride, s_stride, z_stride;
  const float *b, *c;
  int64_t b_stride, c_stride;
  const float *a_log, *d, *dt_bias;
  const int32_t* offsets;
  const float* h0;  ///< start states or null: zero
  int64_t channels, states, segments;
  bool ends_only;
};

struct ScanPiece {
  int32_t begin, end;      ///< tokens
  int32_t segment;         ///< of token `begin`
  int32_t slot;            ///< among the pieces of cut segments; -1 for whole segments
  int32_t enters, leaves;  ///< begins inside its segment; ends inside it
};

constexpr int64_t kShortestPiece = 512;

/// Pieces in the order of the stream. Those of one cut segment have slots [runs[2 i], runs[2 i + 1]).
struct ScanPieces {
  std::vector<ScanPiece> all, cut;
  std::vector<int32_t> runs;
  /// The same in device memory.
  const ScanPiece *device_all = nullptr, *device_cut = nullptr;
  const int32_t* device_runs = nullptr;

  int64_t cuts() const { return int64_t(cut.size()); }
};
/// Cuts segments of more than `longest` tokens into pieces of about as many, at tokens that are multiples of
/// kScanChunk; puts shorter ones that follow each other together up to `group` tokens.
ScanPieces cut_scan(const Documents& docs, int64_t longest, int64_t group);
/// The one segment [begin, end) as a run of its own, of one piece or more.
ScanPieces cut_segment(int64_t segment, int64_t begin, int64_t end, int64_t longest);
/// Copies the lists to scratch on the context's stream.
void to_device(const Context& ctx, ScanPieces& pieces);

/// Tokens of the longest piece for a walk of T tokens (the longest segment of `longest` tokens) whose blocks
/// take `threads` threads for all channels: about `wanted` threads in all, not less than kShortestPiece.
int64_t piece_tokens(int64_t tokens, int64_t threads, int64_t wanted);
int64_t longest_segment(const Documents& docs);

/// What pieces of cut segments do to states that pass through them. Both write `states` [cuts][N][E]: on
/// return the state that enters a piece from its left (forward: from h0, or zero, on), or the gradient that
/// enters it from its right (backward: from dh_last, or zero, on). Scratch comes from the caller's
/// ArenaScope.
template <class A>
void scan_entering_states(const Context& ctx, const ScanStream<A>& in, const ScanPieces& pieces,
                          float* states);
template <class A>
struct ScanCarryGradients {
  const A* d_out;
  int64_t d_out_stride;
  const float* dh_last;  ///< end states or null: zero
};
template <class A>
void scan_entering_gradients(const Context& ctx, const ScanStream<A>& in,
                             const ScanCarryGradients<A>& gradients, const ScanPieces& pieces, float* states);

/// A segment without tokens passes its state on unchanged: to[s] = from[s], zero without `from`. With
/// ends_only `to` belongs to segment `edge` (the first or the last): a shard without tokens passes the state
/// on, an empty segment at the edge of one with tokens has no state to pass. Enqueues nothing where no
/// segment is empty.
void scan_pass_empty(const Context& ctx, const Documents& docs, const Tensor& from, const Tensor& to,
                     bool ends_only, int64_t edge);

template <class A, class Op>
ScanStream<A> scan_stream(const Op& op, const int32_t* device_offsets) {
  return {.u = op.u.template ptr<A>(),
          .s = op.s.template ptr<A>(),
          .z = op.z ? op.z.template ptr<A>() : nullptr,
          .u_stride = op.u.row_stride,
          .s_stride = op.s.row_stride,
          .z_stride = op.z.row_stride,
          .b = op.b.template ptr<float>(),
          .c = op.c.template ptr<float>(),
          .b_stride = op.b.row_stride,
          .c_stride = op.c.row_stride,
          .a_log = op.a_log.template ptr<float>(),
          .d = op.d.template ptr<float>(),
          .dt_bias = op.dt_bias.template ptr<float>(),
          .offsets = device_offsets,
          .h0 = op.h0 ? op.h0.template ptr<float>() : nullptr,
          .channels = op.a_log.shape[0],
          .states = op.a_log.shape[1],
          .segments = op.docs.count,
          .ends_only = op.ends_only};
}

}  // namespace jambalaya::cuda
