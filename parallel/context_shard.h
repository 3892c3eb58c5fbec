// Which tokens of a micro-batch lie where when its sequence is cut over context ranks. Every rank knows the
// lengths of all documents, so all of this is computed, never communicated.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/documents.h"

namespace jambalaya {

/// Half-open range of tokens of a micro-batch's packed stream.
struct TokenRange {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
};

/// The part of packed documents that lies in a range of the stream.
struct StreamPart {
  std::vector<int64_t> lengths, first_positions;  ///< per segment
  std::vector<int64_t> starts;  ///< first token of each segment's document in the whole stream
  bool open_end = false;        ///< the last segment's document goes on behind the range
  bool continues_left() const { return !first_positions.empty() && first_positions[0] > 0; }
  /// Nothing starts or ends inside: what comes in from the left goes out on the right.
  bool passes_through() const { return lengths.size() == 1 && continues_left() && open_end; }
};
/// Documents without a token in the range leave no segment.
StreamPart part_of_stream(const std::vector<int64_t>& lengths, TokenRange range);

/// Queries of one chunk against keys of another: for each segment of the queries, the rows of the key chunk
/// that its document has there.
struct VisibleKeys {
  std::vector<int64_t> lengths;          ///< query tokens per segment
  std::vector<int64_t> first_positions;  ///< of the segment's first query, counted from its first key row
  std::vector<int64_t> key_begin;        ///< first row in the key chunk
  std::vector<int64_t> key_count;        ///< rows there; 0: the segment sees nothing
  bool any = false;
};
VisibleKeys visible_keys(const std::vector<int64_t>& lengths, TokenRange queries, TokenRange keys);

/// Rows of an all-to-all: how many go to (come from) each rank, and where they lie in the sent (received)
/// rows.
struct RowExchange {
  std::vector<int64_t> send_rows, send_starts, receive_rows, receive_starts;
  RowExchange reversed() const { return {receive_rows, receive_starts, send_rows, send_starts}; }
};

/// One context rank's view. Ranks hold contiguous ranges of equal size (to one token). Attention alone works
/// in another order: the stream is cut into 2c chunks and rank r takes chunks r and 2c-1-r, so that causal
/// work is balanced (Brandon et al. 2023, Striped Attention; Llama 3, section 3.3.2).
class ContextShard {
 public:
  ContextShard(std::vector<int64_t> lengths, int rank, int ranks);

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }
  int64_t tokens() const { return range(rank_).count(); }  ///< here
  int64_t all_tokens() const { return total_; }
  TokenRange range(int rank) const { return {chunk(2 * rank).begin, chunk(2 * rank + 1).end}; }
  const StreamPart& part(int rank) const { return parts_[std::size_t(rank)]; }
  const std::vector<int64_t>& lengths() const { return lengths_; }  ///< of all documents
  const Documents& documents() const { return view_; }              ///< the segments here

  TokenRange chunk(int64_t i) const;  ///< i of [0, 2c)
  int owner(int64_t chunk) const;     ///< in attention's order
  int64_t first_chunk(int rank) const { return rank; }
  int64_t second_chunk(int rank) const { return 2 * ranks_ - 1 - rank; }
  int64_t balanced_tokens(int rank) const {
    return chunk(first_chunk(rank)).count() + chunk(second_chunk(rank)).count();
  }
  /// What moves when rows go over to attention's order.
  RowExchange to_balanced() const;

 private:
  std::vector<int64_t> lengths_;
  int rank_, ranks_;
  int64_t total_ = 0;
  std::vector<StreamPart> parts_;
  DocumentsBuffer buffer_;
  Documents view_;
};

}  // namespace jambalaya
