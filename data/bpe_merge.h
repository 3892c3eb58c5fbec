// The merge loop of BPE training.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/bpe_model.h"
#include "data/word_count.h"

namespace jambalaya {

/// Open-addressed map from a pair of 16-bit ids to its slot.
class PairSlots {
 public:
  static constexpr uint32_t kNone = ~0u;
  PairSlots() : table_(1 << 18, ~0ull) {}
  uint32_t find(uint32_t key) const;
  void insert(uint32_t key, uint32_t slot);  ///< the key must be new

 private:
  static size_t spread(uint32_t key) { return size_t(key * 0x9E3779B97F4A7C15ull >> 20); }
  std::vector<uint64_t> table_;  ///< key << 32 | slot
  size_t used_ = 0;
};

/// All unique words lie in one array with separators between them, one cell per byte. The first cell of a
/// token holds its id, its last cell id | kEnd; neighbours are found through the tokens' lengths, so that a
/// merge rewrites cells in place and moves nothing.
class MergeLoop {
 public:
  /// `tokens`: bytes of every id that exists already; `id_of_byte`: the ids of single bytes.
  /// Error(bad_input) when the unique words do not fit into 32-bit positions.
  MergeLoop(const WordCounter& words, const std::array<uint32_t, 256>& id_of_byte,
            std::vector<std::string> tokens);

  /// Merges until there are `vocab_size` ids or no pair occurs max(1, min_frequency) times.
  std::vector<Merge> run(size_t vocab_size, int64_t min_frequency,
                         const std::function<void(size_t)>& progress);

 private:
  static constexpr uint32_t kEnd = 1u << 31, kSeparator = 0x7ffffffe, kInside = 0x7fffffff;

  /// A pair in the queue with the places where it was seen. Counts of waiting entries go stale, but only
  /// fall, and are refreshed when they reach the top.
  struct Candidate {
    int64_t count;
    uint32_t key, slot, list;
  };
  /// What one merge does to the pairs of one neighbour token.
  struct Neighbour {
    uint32_t epoch = 0, fresh = 0;
    int64_t lost = 0;  ///< occurrences of the old pair (neighbour with a, or b with neighbour) that are gone
  };
  struct Fresh {
    uint32_t key;
    int64_t gained;
    std::vector<uint32_t> places;
  };

  void index_pairs();
  void push(uint32_t key, uint32_t slot, const std::vector<uint32_t>& places);
  Neighbour& touch(std::vector<Neighbour>& side, std::vector<uint32_t>& touched, uint32_t token,
                   uint32_t key);
  uint32_t id_for(uint32_t a, uint32_t b);
  void merge_everywhere(uint32_t a, uint32_t b, uint32_t n, const std::vector<uint32_t>& places);
  void settle(uint32_t a, uint32_t b, uint32_t n);
  static bool before(const Candidate& x, const Candidate& y) {
    return x.count != y.count ? x.count < y.count : x.key > y.key;
  }

  std::vector<uint32_t> cells_, word_of_cell_;
  std::vector<int64_t> word_count_;
  std::vector<std::string> tokens_;
  std::vector<uint32_t> length_;  ///< bytes per token
  std::unordered_map<std::string, uint32_t> id_of_token_;
  PairSlots slots_;
  std::vector<int64_t> pair_count_;  ///< by slot
  std::vector<std::vector<uint32_t>> lists_;
  std::vector<Candidate> queue_;
  // of the merge at hand:
  uint32_t epoch_ = 0;
  std::vector<Neighbour> left_, right_;
  std::vector<uint32_t> touched_left_, touched_right_;
  std::vector<Fresh> fresh_;
  size_t fresh_used_ = 0;
};

}  // namespace jambalaya
