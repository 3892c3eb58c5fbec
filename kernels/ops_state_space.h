// The menu's part for Mamba: convolution, selective scan, and what a shard of a longer stream needs of them.
// Legend and conventions: kernels/ops.h.
//
// Carried state. A segment may continue what lies elsewhere: convolution and scan then start from a state
// that is given and give the one at its end, one entry for each segment (generation). A shard of a longer
// stream (context parallelism) has neighbours at its two ends only, however many segments lie between: with
// `ends_only` states of starts (h0, dh0, left, dleft) have ONE entry, of the first segment, and states of
// ends (h_last, dh_last, tail, dtail) ONE, of the last; all other segments start from zero and end in
// nothing. A shard without tokens passes states on unchanged. What arrives where a document begins is the
// caller's to make zero.
#pragma once
#include "kernels/context.h"
#include "kernels/documents.h"
#include "kernels/tensor.h"

namespace jambalaya {

/// Causal depthwise convolution and SiLU: v[t] = bias + sum_j w[:, j] x[t - (W-1) + j], u = v sigmoid(v).
/// Taps before a document's first token read 0, or `left` for a segment with a past.
struct ConvForward {
  Tensor x;     ///< act [T, E] (rows may be strided)
  Tensor w;     ///< f32 [E, W]; tap 0 is the oldest
  Tensor bias;  ///< optional f32 [E]
  Documents docs;
  Tensor left;  ///< optional f32 [S, W-1, E]: the inputs just before each segment, oldest first
  Tensor u;     ///< act [T, E]
  Tensor tail;  ///< optional f32 [S, W-1, E]: the last W-1 inputs up to each segment's end, those of `left`
                ///< before a shorter segment's own (may be `left`'s memory)
  bool ends_only = false;  ///< S = 1 in left and tail: see "Carried state"
};
struct ConvBackward {
  Tensor du;  ///< act or f32 [T, E]
  Tensor x, w, bias;
  Documents docs;
  Tensor left;
  Tensor dx;     ///< act [T, E] (rows may be strided)
  Tensor dw;     ///< f32 [E, W], +=
  Tensor dbias;  ///< f32 [E], +=; empty with bias
  Tensor dleft;  ///< optional f32 [S, W-1, E]: gradient of `left`, written
  Tensor dtail;  ///< optional f32 [S, W-1, E]: gradient that arrives at `tail`
  bool ends_only = false;
};

/// Selective scan (Mamba, algorithm 2), with everything around it fused:
/// delta = softplus(s + dt_bias);  A = -exp(a_log);  h[t] = exp(delta A) h[t-1] + delta B[t] u[t];
/// y = C[t] . h[t] + D u[t];  o = y SiLU(z) (o = y when z is empty).
/// Each segment starts from h0 (zero when empty).
struct ScanForward {
  Tensor u, s;     ///< act [T, E]
  Tensor z;        ///< optional act [T, E] (rows may be strided)
  Tensor b, c;     ///< f32 [T, N]
  Tensor a_log;    ///< f32 [E, N]
  Tensor d;        ///< f32 [E]
  Tensor dt_bias;  ///< f32 [E]
  Documents docs;
  Tensor h0;           ///< optional f32 [S, N, E]
  Tensor o;            ///< act [T, E]
  Tensor h_last;       ///< optional f32 [S, N, E]: state after each segment (may be h0's memory, but not with
                       ///< ends_only)
  Tensor states;       ///< optional f32 [scan_states(T), N, E]: states kept for the backward
  Tensor delta_range;  ///< optional f32 [2]: smallest and largest delta of this call (telemetry), written; 0
                       ///< without tokens
  bool ends_only = false;  ///< S = 1 in h0 and h_last: see "Carried state"
};
/// Tokens between kept states: states[c] [N, E] is the state that enters token c * kScanChunk of the packed
/// stream (what the recurrence calls h[t-1] there): the state after the token before it or, where token c *
/// kScanChunk is the first of its segment, that segment's start state (h0, or zero).
inline constexpr int64_t kScanChunk = 64;
inline int64_t scan_states(int64_t tokens) { return (tokens + kScanChunk - 1) / kScanChunk; }
struct ScanBackward {
  Tensor d_out;  ///< act [T, E]: gradient of o
  Tensor u, s, z, b, c, a_log, d, dt_bias;
  Documents docs;
  Tensor h0;
  Tensor states;                ///< from the forward
  Tensor dh_last;               ///< optional f32 [S, N, E]: gradient that arrives at h_last
  Tensor du;                    ///< act or f32 [T, E]
  Tensor ds;                    ///< act [T, E]
  Tensor dz;                    ///< act [T, E] (rows may be strided); empty with z
  Tensor db, dc;                ///< f32 [T, N]
  Tensor da_log, dd, ddt_bias;  ///< f32 [E, N], [E], [E], +=
  Tensor dh0;                   ///< optional f32 [S, N, E], written
  bool ends_only = false;
};

/// What a shard does to a state that passes through it, before that state is known; so ranks of a
/// context-parallel group need not wait for each other's scans. With `decay` and `h_end` of each shard, and
/// `dh0` of each from ScanCarryBackward, ranks r in the order of the stream:
///   h_in(r+1) = decay(r) h_in(r) + h_end(r), or 0 where the document ends with the shard (no open_end);
///   dh_end(r-1) = decay(r) dh_end(r) + dh0(r), or 0 where one begins with it (not continues_left).
/// ScanForward from h_in and ScanBackward from dh_end, both ends_only, then give whole results. A shard
/// without tokens passes both on unchanged, whatever its open_end says (decay 1, h_end 0, dh0 0).
/// Source: the associative scan of (decay, state) pairs, Blelloch 1990; Gu and Dao 2023, section 3.3.2.
///
/// h_end = state after the last segment, when it starts from zero; decay = exp(A sum of delta) over that
/// segment, or 0 where it is not also the first one (a document that begins here forgets what came before).
struct ScanCarryForward {
  Tensor u, s;     ///< act [T, E]
  Tensor b;        ///< f32 [T, N]
  Tensor a_log;    ///< f32 [E, N]
  Tensor dt_bias;  ///< f32 [E]
  Documents docs;
  Tensor h_end, decay;  ///< f32 [N, E], written
};
/// dh0 = gradient of the first segment's start state, when nothing arrives at its end:
/// g <- exp(delta[t] A) (g + C[t] dy[t]) from its last token to its first, dy = d_out SiLU(z).
struct ScanCarryBackward {
  Tensor d_out;    ///< act [T, E]
  Tensor s;        ///< act [T, E]
  Tensor z;        ///< optional act [T, E] (rows may be strided)
  Tensor c;        ///< f32 [T, N]
  Tensor a_log;    ///< f32 [E, N]
  Tensor dt_bias;  ///< f32 [E]
  Documents docs;
  Tensor dh0;  ///< f32 [N, E], written
};

}  // namespace jambalaya
