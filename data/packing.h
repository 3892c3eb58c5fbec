// In what order the tokens of a split are trained on: an endless stream of which any part can be had at once.
//
// Epoch e shuffles the documents (a keyed permutation), lays them one after another, cuts that line into
// chunks of C tokens and shuffles the chunks (another permutation), so that one long book does not fill many
// batches in a row. The cuts lie at multiples of C of the whole stream; what remains before the first and
// after the last stays in place. Epochs follow one another without padding. A row of the loader is the next L
// tokens of the stream, so
//  - every token of the split comes exactly once in every epoch, whatever L is and however often it changes;
//  - the whole state is one number, the position in the stream: nothing depends on ranks, batch size or
//  threads;
//  - as long as L divides C, a row lies within one chunk and is cut nowhere else (but where two epochs meet).
// A document that is cut goes on elsewhere as a segment of its own, without carried state.
// Cutting costs context at row ends, but no token and no target. Best-fit packing would cut fewer documents,
// yet its plan depends on L: to change L in mid-epoch without losing or repeating tokens it would need a
// record of all documents used so far instead of a number.
#pragma once
#include <cstdint>
#include <vector>

namespace jambalaya {

/// A permutation of [0, n) computed point by point: a Feistel network of six rounds on the smallest even
/// number of bits that holds n, applied again while the result is not below n (cycle walking, fewer than 4
/// times on average).
class KeyedPermutation {
 public:
  KeyedPermutation(uint64_t n, uint64_t key);
  uint64_t operator()(uint64_t i) const;

 private:
  uint64_t n_;
  uint32_t half_bits_;
  uint64_t mask_;
  uint64_t round_keys_[6];
};

/// Part of a document: tokens [begin, begin + length) of document `document`.
struct Piece {
  int64_t document = 0, begin = 0, length = 0;
};

/// The order of one epoch. Memory: half a byte per document beside `lengths`, which it refers to.
class EpochOrder {
 public:
  /// `lengths`: tokens of each document, none zero. `chunk` >= 1 tokens.
  EpochOrder(const std::vector<uint32_t>& lengths, uint64_t seed, uint64_t epoch, int64_t chunk);

  int64_t tokens() const { return tokens_; }
  uint64_t epoch() const { return epoch_; }
  /// Appends the pieces at positions [begin, begin + count) of the epoch.
  void append_pieces(int64_t begin, int64_t count, std::vector<Piece>& pieces) const;

 private:
  void append_line(int64_t begin, int64_t count, std::vector<Piece>& pieces) const;
  const std::vector<uint32_t>& lengths_;
  uint64_t epoch_;
  int64_t chunk_, tokens_ = 0;
  int64_t head_;  // tokens before the first cut
  KeyedPermutation documents_, chunks_;
  std::vector<int64_t> starts_;  // where every 16th document of the line begins
};

}  // namespace jambalaya
