// What attention means by heads and segments, and the checks of its ops: the same on every backend.
#pragma once
#include <algorithm>

#include "kernels/ops.h"

namespace jambalaya {
namespace attention {

struct Heads {
  int64_t size, query, key;                       ///< C, H, G
  int64_t shared() const { return query / key; }  ///< query heads per key head
};

/// The segments of a call and the key rows that each sees: its token i the rows first_key + [0, min(past + i
/// + 1, seen)).
class Segments {
 public:
  /// key_begin, key_count as in AttentionForward (may be empty). Throws where a segment looks outside of
  /// `key_rows`.
  Segments(const Documents& docs, const Tensor& key_begin, const Tensor& key_count, int64_t key_rows);

  int64_t count() const { return docs_.count; }
  int64_t first_token(int64_t s) const { return docs_.offsets[s]; }
  int64_t tokens(int64_t s) const { return docs_.offsets[s + 1] - docs_.offsets[s]; }
  int64_t first_key(int64_t s) const {
    if (!begin_) return docs_.offsets[s];
    return seen(s) ? begin_[s] : 0;
  }
  /// Keys before the segment's first token. Keys and queries of one stream: a segment sees only its own rows.
  int64_t past(int64_t s) const { return begin_ ? docs_.first_position[s] : 0; }
  /// Keys that tokens before the end-th see at most.
  int64_t seen(int64_t s, int64_t end) const {
    return count_ ? std::min(past(s) + end, count_[s]) : past(s) + end;
  }
  /// Keys that the segment sees; a segment without tokens sees none.
  int64_t seen(int64_t s) const { return tokens(s) ? seen(s, tokens(s)) : 0; }
  /// Past the last of the segments from `first` on whose keys lie one behind the other: no row is in two.
  int64_t end_of_disjoint(int64_t first) const;

 private:
  Documents docs_;
  const int64_t *begin_ = nullptr, *count_ = nullptr;
};

}  // namespace attention

/// As those of kernels/op_checks.h; these return the heads that the op's tensors have. That key rows exist
/// and, without `accumulate`, follow each other is checked as well.
attention::Heads check_op(const AttentionForward& op);
attention::Heads check_op(const AttentionBackward& op);
attention::Heads check_op(const AttentionMerge& op);
attention::Heads check_op(const AttentionDelta& op);

}  // namespace jambalaya
