// The menu: every operation of the framework, forward and backward side by side, with shapes, units and
// source. A backend (kernels/cpu, kernels/cuda) implements all of it under the same names. The CPU file is
// the specification. Equations: docs/architecture.md; Jamba, arXiv 2403.19887; Mamba, arXiv 2312.00752.
//
// Legend of shape suffixes: T packed tokens, D model width, E inner (Mamba) channels, N states, R dt rank,
// W conv width, H query heads, G key/value heads, C head size, F feed-forward width, X experts, K chosen,
// V vocabulary, S segments (documents), rows = any number of rows.
// "act" is the activation dtype: f32 or bf16. All arithmetic is fp32; statistics and gradients of parameters
// are fp32. Gradients of parameters are ADDED to what is there ("+="); gradients of activations are written
// unless the comment says "+=". Every op is deterministic: same bits for any number of threads.
// Tensors named optional may be empty (null data).
#pragma once
#include <functional>

#include "kernels/context.h"
#include "kernels/documents.h"
#include "kernels/ops_state_space.h"
#include "kernels/tensor.h"

namespace jambalaya {

// ---- linear algebra --------------------------------------------------------------------------------------

/// c[m, n] = (accumulate ? c : 0) + op(a)[m, k] op(b)[k, n], op(x) = x or its transpose; fp32 sums.
/// a and b share one dtype (f32 or bf16); c is f32 or bf16 (accumulate into bf16: one rounding at the end).
/// Rows of all three may be strided. m, n or k may be 0.
struct Gemm {
  Tensor a, b, c;
  bool transpose_a = false, transpose_b = false, accumulate = false;
};

/// One product per expert x over its rows [offsets[x], offsets[x+1]) (empty experts allowed; contents of
/// `offsets` are read by the device). forward: y[rows, n] = a[rows, k] w[x][n, k]^T.
/// input gradient: y[rows, k] = a[rows, n] w[x][n, k]. weight gradient: w[x][n, k] += a[rows, n]^T y[rows,
/// k], w f32.
struct GroupedGemm {
  enum class Kind { forward, input_gradient, weight_gradient } kind;
  Tensor a, w,
      y;  ///< a [rows, .], w [X, n, k], y [rows, .] (see above; for weight gradients a and y are read)
  Tensor offsets;           ///< i32 [X + 1]
  bool accumulate = false;  ///< for forward and input gradient: y += instead of y =
  /// The same numbers where the host knows them (they came with the exchange of rows): large experts then go
  /// to the vendor's library one by one. Null: the device reads `offsets`. Read during the call only; the CPU
  /// ignores it.
  const int32_t* host_offsets = nullptr;
};

// ---- vocabulary ------------------------------------------------------------------------------------------

/// y[t] = table[ids[t]]. A table may hold a part of the vocabulary, its rows [first_id, first_id + V): ids of
/// other parts give a row of zeros, so that the sum over all parts is the whole table's y. Ids outside of
/// [0, vocabulary) fail; on a device, where no op waits, they give a row of NaN, and no gradient.
struct EmbeddingForward {
  Tensor ids;    ///< i32 [T]
  Tensor table;  ///< act or f32 [V, D]
  Tensor y;      ///< act or f32 [T, D]
  int64_t first_id = 0;
  int64_t vocabulary = 0;  ///< of all parts together; 0: table.rows()
};
struct EmbeddingBackward {
  Tensor ids;            ///< i32 [T]
  Tensor dy;             ///< act or f32 [T, D]
  Tensor dtable;         ///< f32 [V, D], +=; ids of other parts add nothing
  int64_t skip_id = -1;  ///< this row gets no gradient (padding); an id of the whole vocabulary
  int64_t first_id = 0;
  int64_t vocabulary = 0;  ///< as in the forward
};

/// Head and cross-entropy fused over chunks of tokens: [T, V] never exists whole. For counted tokens
/// (target >= 0): nll = logsumexp(h W^T) - (h W^T)[target]; loss_sum += sum of nll; z_sum += sum of
/// logsumexp^2. Gradients of  scale * sum nll + z_scale * sum logsumexp^2  when dh is given.
///
/// The vocabulary may be cut by rows into parts, one a rank; w holds rows [first_id, first_id + V) of it (V
/// may be 0), h and targets are the same everywhere. `combine` then exchanges, once for each chunk of counted
/// tokens, what the parts know of their softmaxes (four numbers a token). All parts make the same calls, and
/// their losses, nll and correct come out whole, with the same bits; dh is this part's share of a sum over
/// parts, dw belongs to this part's rows.
///
/// Targets at or beyond the vocabulary fail; on a device their nll is NaN. There `combine` is called for
/// every chunk, since the host does not know whether it has a counted token, and only enqueues.
struct HeadLoss {
  Tensor h;        ///< act [T, D], final hidden states (normed)
  Tensor w;        ///< act [V, D]
  Tensor targets;  ///< i32 [T]; negative = ignored
  float scale = 1, z_scale = 0;
  Tensor loss_sum;  ///< f64 [2]: sum of nll, sum of logsumexp^2; +=
  Tensor nll;       ///< optional f32 [T]: per token, 0 where ignored
  Tensor correct;   ///< optional u8 [T]: 1 where the target is the arg max (lowest index wins)
  Tensor dh;        ///< optional act [T, D]
  Tensor dw;        ///< f32 [V, D], += (needed with dh)
  int64_t first_id = 0;
  int64_t vocabulary = 0;  ///< of all parts together; 0: w.rows()
  int64_t parts = 1;
  /// An all-gather: all [parts, n, 4] <- every part's own [n, 4], both packed f32, parts in rising order of
  /// their ids. Empty: the whole vocabulary is here (parts = 1).
  std::function<void(Context&, const Tensor& own, const Tensor& all)> combine = {};
};

// ---- norms -----------------------------------------------------------------------------------------------

/// RMSNorm (Zhang and Sennrich 2019) with the residual sum before it:
/// h_out = h + branch (skipped when branch is empty: h is normed as it is and h_out is not written);
/// y = weight * h_out / sqrt(mean(h_out^2) + eps).
struct RmsNormForward {
  Tensor h;       ///< act or f32 [T, D] residual stream
  Tensor branch;  ///< optional act or f32 [T, D]
  Tensor weight;  ///< f32 [D]
  float eps = 1e-6f;
  Tensor h_out;  ///< as h; may be the same memory as h
  Tensor y;      ///< act or f32 [T, D]
  Tensor rstd;   ///< f32 [T], saved for backward
};
struct RmsNormBackward {
  Tensor dy;       ///< act or f32 [T, D]
  Tensor h;        ///< what was normed (h_out, or h without a branch)
  Tensor weight;   ///< f32 [D]
  Tensor rstd;     ///< f32 [T]
  Tensor dh;       ///< act or f32 [T, D], += the gradient through the norm
  Tensor dweight;  ///< f32 [D], +=
};

/// The three norms inside Jamba's Mamba: split p into dt [R], B [N], C [N]; norm each (or copy where its
/// weight is empty).
struct SsmNormsForward {
  Tensor p;               ///< f32 [T, R + 2N]: x_proj's output, whole (summed over tensor-parallel ranks)
  Tensor w_dt, w_b, w_c;  ///< optional f32 [R], [N], [N]
  float eps = 1e-6f;
  Tensor dt;    ///< act [T, R]
  Tensor b, c;  ///< f32 [T, N]
  Tensor rstd;  ///< f32 [T, 3]; 1 for a part that is copied
};
struct SsmNormsBackward {
  Tensor ddt;     ///< act or f32 [T, R]
  Tensor db, dc;  ///< f32 [T, N]
  Tensor p, w_dt, w_b, w_c, rstd;
  Tensor dp;                 ///< f32 [T, R + 2N]
  Tensor dw_dt, dw_b, dw_c;  ///< f32, +=; empty with their weight
};

// ---- state space: kernels/ops_state_space.h ---------------------------------------------------------------

// ---- attention -------------------------------------------------------------------------------------------

/// Rotary position embedding (Su et al. 2021; half-split pairs as in Hugging Face), in place.
struct Rope {
  Tensor x;  ///< act [T, heads * C]
  int64_t head_size = 0;
  float theta = 10000;
  Documents docs;        ///< positions
  bool inverse = false;  ///< rotate back (gradients)
};

/// Causal grouped-query attention inside documents, online softmax (FlashAttention, Dao et al. 2022):
/// memory O(T). Query head h reads key head h / (H / G). The query at position p of segment s, counted from
/// first_position[s], sees the key rows key_begin[s] + [0, min(p + 1, key_count[s])); without key_count
/// key_begin[s] + [0, p]. With key_begin empty keys and queries are the same stream (key_begin = offsets, p
/// counted from 0).
///
/// One block of a longer stream of keys (Ring Attention, Liu et al. 2023): key_begin[s] is where segment s's
/// document starts in the block or the block's first row, first_position[s] what lies between that row and
/// the segment's first query, key_count[s] how many rows of the block belong to the document (0: nothing is
/// seen). A query that sees nothing has o = 0 and lse = -inf. AttentionMerge puts the blocks' results
/// together.
struct AttentionForward {
  Tensor q;     ///< act [T, H*C] (rows may be strided)
  Tensor k, v;  ///< act [T, cache rows or block rows; G*C] (rows may be strided)
  int64_t head_size = 0;
  float scale = 1;  ///< 1/sqrt(C)
  Documents docs;
  Tensor key_begin;  ///< optional i64 [S]; control, as docs: in host memory, read during the call
  Tensor key_count;  ///< optional i64 [S], with key_begin only; likewise
  Tensor o;          ///< act [T, H*C], or f32 whatever q is (partial results)
  Tensor lse;        ///< optional f32 [H, T]: logsumexp of scaled scores, saved for backward
};
/// o, lse become attention over the keys behind o, lse and those behind part, part_lse: both o weighted by
/// their share of the softmax's sum, lse = log(exp(lse) + exp(part_lse)). A side with lse = -inf has seen no
/// key: its o is not read, and the other side is taken to the bit; both -inf: nothing changes.
struct AttentionMerge {
  Tensor o;         ///< f32 [T, H*C], updated
  Tensor lse;       ///< f32 [H, T], updated
  Tensor part;      ///< f32 [T, H*C]
  Tensor part_lse;  ///< f32 [H, T]
  int64_t head_size = 0;
};
/// delta[h, t] = <d_out[t, h], o[t, h]>: what AttentionBackward needs of o, once for all blocks of keys.
struct AttentionDelta {
  Tensor d_out, o;  ///< act [T, H*C], of one dtype
  int64_t head_size = 0;
  Tensor delta;  ///< f32 [H, T], written
};
/// Segments, key_begin and key_count as in AttentionForward. For a block of keys lse and o (or delta) are
/// those over ALL keys of the query; dq is then this block's share, and dk, dv are whole once every query
/// that sees the block has been through. Rows of dk and dv that no query of the call sees are left as they
/// are. Queries with lse = -inf give nothing.
struct AttentionBackward {
  Tensor d_out;    ///< act [T, H*C]
  Tensor q, k, v;  ///< act, as in the forward
  Tensor o;        ///< act [T, H*C]; not read when delta is given
  Tensor lse;      ///< f32 [H, T]
  int64_t head_size = 0;
  float scale = 1;
  Documents docs;
  Tensor key_begin, key_count;  ///< optional, as in the forward
  Tensor delta;                 ///< optional f32 [H, T], see AttentionDelta
  Tensor dq, dk, dv;  ///< as q, k, v in shape (rows may be strided); act, written, or f32, += (accumulate)
  /// Add to f32 dq, dk, dv instead of writing act. Without it the segments' key rows must follow each other
  /// without overlap.
  bool accumulate = false;
};

/// Generation: what each sequence has just said joins its cache. Sequence s has the rows [s L, (s + 1) L) of
/// the caches; row first_position[s] + i of these = row offsets[s] + i of keys (values), bit for bit.
struct CacheAppend {
  Tensor keys, values;            ///< act [T, G*C] (rows may be strided)
  Tensor key_cache, value_cache;  ///< act [S * L, G*C]
  Documents docs;                 ///< segment s is sequence s; its end, first_position included, is at most L
};

// ---- feed-forward and experts ----------------------------------------------------------------------------

/// h = SiLU(gate) * up (Shazeer 2020).
struct SwigluForward {
  Tensor gate_up;  ///< act [rows, 2F]: gate in columns [0, F), up in [F, 2F)
  Tensor h;        ///< act [rows, F]
};
struct SwigluBackward {
  Tensor dh;  ///< act [rows, F]
  Tensor gate_up;
  Tensor dgate_up;  ///< act [rows, 2F]
};

/// probs = softmax(logits); the K largest (ties: lower index), in falling order, with their probabilities as
/// weights: not renormalised, as in Jamba, unless asked for.
struct RouterForward {
  Tensor logits;  ///< f32 [T, X]
  int64_t k = 2;
  bool renormalize = false;
  Tensor probs;   ///< f32 [T, X]
  Tensor expert;  ///< i32 [T, K]
  Tensor weight;  ///< f32 [T, K]
  Tensor lse;     ///< f32 [T]: logsumexp of the logits (z-loss)
  Tensor stats;   ///< f32 [2X + 1]: times each expert was chosen, sum of its probability over tokens, sum of
                  ///< lse^2; written
};
/// dp[t,x] = (dweight scattered, through the renormalisation if any) + dprob[x];  dlogits = p (dp - <p, dp>)
/// + 2 z_scale lse p. dprob carries the balance loss, constant over tokens.
struct RouterBackward {
  Tensor probs, expert, weight, lse;
  bool renormalize = false;
  Tensor dweight;  ///< f32 [T, K]
  Tensor dprob;    ///< optional f32 [X]
  float z_scale = 0;
  Tensor dlogits;  ///< f32 [T, X]
};

/// Balance loss over all expert layers of a micro-batch, from the routers' stats summed over the ranks that
/// share it. F[l,x] = count / tokens, P[l,x] = probability sum / tokens. Over all layers together (Hugging
/// Face's form, which equals K at perfect balance): loss = X sum_x mean_l(F) mean_l(P). Per layer: loss =
/// mean_l X sum_x F P. dprob[l,x] = weight * factor * d loss / d p[l,t,x], the same for every token t (F is
/// constant in the backward).
struct BalanceLoss {
  Tensor stats;       ///< f32 [L, 2X + 1], see RouterForward
  double tokens = 0;  ///< of the whole micro-batch, all ranks
  bool per_layer = false;
  double factor = 1;  ///< 1/K for MegaBlocks' form, whose value at balance is 1
  double weight = 0;  ///< coefficient in the objective
  Tensor dprob;       ///< f32 [L, X]
  Tensor sums;        ///< f64 [2]: += factor * loss, += mean over layers and tokens of logsumexp^2
};

/// Stable counting sort of the T*K choices by expert (ties: token, then choice).
struct SortByExpert {
  Tensor expert;        ///< i32 [T, K]
  int64_t experts = 0;  ///< X
  Tensor offsets;       ///< i32 [X + 1]
  Tensor row_of;        ///< i32 [T, K]: sorted row of each choice
  Tensor token_of;      ///< i32 [T*K]: token of each sorted row
};
/// y[r] = x[token_of[r]].
struct GatherRows {
  Tensor x;         ///< act [T, D]
  Tensor token_of;  ///< i32 [rows]
  Tensor y;         ///< act [rows, D]
};
/// dx[t] = sum over k of dy[row_of[t, k]], fp32 sums in the order of k.
struct GatherRowsBackward {
  Tensor dy;      ///< act [T*K, D]
  Tensor row_of;  ///< i32 [T, K]
  Tensor dx;      ///< act or f32 [T, D]
  bool accumulate = false;
};
/// y[t] = sum over k of weight[t, k] x[row_of[t, k]], fp32 sums in the order of k.
struct CombineForward {
  Tensor x;       ///< act [T*K, D]
  Tensor row_of;  ///< i32 [T, K]
  Tensor weight;  ///< f32 [T, K]
  Tensor y;       ///< act [T, D]
};
struct CombineBackward {
  Tensor dy;  ///< act or f32 [T, D]
  Tensor x, row_of, weight;
  Tensor dx;       ///< act [T*K, D]: weight * dy
  Tensor dweight;  ///< f32 [T, K]: <dy, x>
};

// ---- element-wise, reductions, optimizer ------------------------------------------------------------------

/// y = alpha x + (accumulate ? y : 0), between any of f32 and bf16, or from f64 to f64 (sums of losses); same
/// shape, rows may be strided.
struct ScaleCopy {
  Tensor x, y;
  float alpha = 1;
  bool accumulate = false;
};
/// y = a * x + b, element by element; packed f32 of one shape. y may be x's or b's memory. (The scan's state
/// through a shard's affine map.)
struct MultiplyAdd {
  Tensor a, x, b, y;
};
/// x[rows, n] += bias[n].
struct AddBias {
  Tensor x, bias;
};
/// dbias[n] += sum over rows of dy[rows, n].
struct BiasBackward {
  Tensor dy, dbias;
};
/// Sum of squares and largest magnitude of x. out f64 [2]: out[0] += weight * sum x^2; out[1] = max(out[1],
/// max|x|). NaN anywhere makes both NaN. Fixed order.
struct SumSquares {
  Tensor x;  ///< f32 or bf16, any shape
  double weight = 1;
  Tensor out;
};
/// AdamW with decoupled decay (Loshchilov and Hutter 2019), bias-corrected, fp32 state:
/// g' = g * grad_scale[0]; m, v updated; p -= lr (m^ / (sqrt(v^) + eps) + decay p).
/// grad_scale[1] != 0 skips the update (nothing is written but `compute`).
struct AdamW {
  Tensor param, m, v;  ///< f32 [n]
  Tensor grad;         ///< f32 [n]
  Tensor compute;      ///< optional bf16 [n]: the copy that the model reads, rewritten
  Tensor grad_scale;   ///< f32 [2]: clip factor, skip flag (device memory)
  float lr = 0, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, decay = 0;
  int64_t step = 1;  ///< 1 for the first update
};

/// A backend: one instance per process and device.
class Ops {
 public:
  virtual ~Ops() = default;
  virtual const char* name() const = 0;  ///< "cpu (avx512-bf16)"

  virtual void gemm(Context&, const Gemm&) = 0;
  virtual void grouped_gemm(Context&, const GroupedGemm&) = 0;
  virtual void embedding_forward(Context&, const EmbeddingForward&) = 0;
  virtual void embedding_backward(Context&, const EmbeddingBackward&) = 0;
  virtual void head_loss(Context&, const HeadLoss&) = 0;
  virtual void rms_norm_forward(Context&, const RmsNormForward&) = 0;
  virtual void rms_norm_backward(Context&, const RmsNormBackward&) = 0;
  virtual void ssm_norms_forward(Context&, const SsmNormsForward&) = 0;
  virtual void ssm_norms_backward(Context&, const SsmNormsBackward&) = 0;
  virtual void conv_forward(Context&, const ConvForward&) = 0;
  virtual void conv_backward(Context&, const ConvBackward&) = 0;
  virtual void scan_forward(Context&, const ScanForward&) = 0;
  virtual void scan_backward(Context&, const ScanBackward&) = 0;
  virtual void scan_carry_forward(Context&, const ScanCarryForward&) = 0;
  virtual void scan_carry_backward(Context&, const ScanCarryBackward&) = 0;
  virtual void rope(Context&, const Rope&) = 0;
  virtual void attention_forward(Context&, const AttentionForward&) = 0;
  virtual void attention_merge(Context&, const AttentionMerge&) = 0;
  virtual void attention_delta(Context&, const AttentionDelta&) = 0;
  virtual void attention_backward(Context&, const AttentionBackward&) = 0;
  virtual void cache_append(Context&, const CacheAppend&) = 0;
  virtual void swiglu_forward(Context&, const SwigluForward&) = 0;
  virtual void swiglu_backward(Context&, const SwigluBackward&) = 0;
  virtual void router_forward(Context&, const RouterForward&) = 0;
  virtual void router_backward(Context&, const RouterBackward&) = 0;
  virtual void balance_loss(Context&, const BalanceLoss&) = 0;
  virtual void sort_by_expert(Context&, const SortByExpert&) = 0;
  virtual void gather_rows(Context&, const GatherRows&) = 0;
  virtual void gather_rows_backward(Context&, const GatherRowsBackward&) = 0;
  virtual void combine_forward(Context&, const CombineForward&) = 0;
  virtual void combine_backward(Context&, const CombineBackward&) = 0;
  virtual void scale_copy(Context&, const ScaleCopy&) = 0;
  virtual void multiply_add(Context&, const MultiplyAdd&) = 0;
  virtual void add_bias(Context&, const AddBias&) = 0;
  virtual void bias_backward(Context&, const BiasBackward&) = 0;
  virtual void sum_squares(Context&, const SumSquares&) = 0;
  virtual void adamw(Context&, const AdamW&) = 0;
};

/// The CPU backend for this machine's instruction set, or for a named lower one ("avx2", "avx512",
/// "avx512-bf16", "amx"; empty: the best there is). JAMBALAYA_ISA overrides. Throws Error(usage) for one that
/// this CPU lacks.
Ops& cpu_ops(const char* isa = "");

}  // namespace jambalaya
