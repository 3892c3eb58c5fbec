// Turns pieces of text into ids: merges by rank, with a cache of pieces seen before.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/bpe_characters.h"
#include "data/bpe_model.h"
#include "data/word_key.h"

namespace jambalaya {

/// Rank of every pair that merges. Read-only once built; shared by all threads.
class MergeTable {
 public:
  static constexpr uint32_t kNone = ~0u;
  static constexpr uint32_t kMaxIds = 1u << 21, kMaxMerges = 1u << 22;

  /// `model` within the limits above. When a pair is listed twice, its last rank holds.
  explicit MergeTable(const BpeModel& model);

  /// Appends the ids of a piece: always the pair of lowest rank, leftmost first. O(n log n) for long pieces.
  template <class Id>
  void encode(const uint8_t* p, size_t n, std::vector<Id>& out) const;

  /// The symbols of a SentencePiece-shaped model; nullptr for a byte-level one.
  const CharacterSymbols* characters() const { return characters_.get(); }

 private:
  uint32_t rank(uint32_t a, uint32_t b) const {
    uint64_t key = uint64_t(a) << 21 | b;
    for (size_t i = spread(key) >> shift_;; i = (i + 1) & (slots_.size() - 1)) {
      if (slots_[i] >> 22 == key) return uint32_t(slots_[i]) & (kMaxMerges - 1);
      if (slots_[i] == ~0ull) return kNone;
    }
  }
  static uint64_t spread(uint64_t key) { return key * 0x9E3779B97F4A7C15ull; }
  void index_merges(const BpeModel& model);
  void index_bytes(const BpeModel& model);
  size_t merge_short(uint32_t* ids, uint32_t* ranks, size_t n) const;
  std::vector<uint32_t> merge_long(const std::vector<uint32_t>& symbols) const;
  template <class Id>
  void merge_symbols(const std::vector<uint32_t>& symbols, std::vector<Id>& out) const;

  std::array<uint32_t, 256> id_of_byte_;
  std::vector<uint32_t> byte_pair_rank_;  ///< [256 * 256] the pairs that every piece starts with
  std::vector<uint64_t> slots_;           ///< left << 43 | right << 22 | rank; all ones: empty
  int shift_;
  std::vector<uint32_t> result_;  ///< id made by each rank
  /// ignore_merges only: bytes of each token.
  std::unordered_map<std::string, uint32_t> whole_;
  std::unique_ptr<const CharacterSymbols> characters_;

  static constexpr size_t kShort = 64;
};

/// Encodes with a cache of its own: one per thread. What it returns never depends on what it has seen.
template <class Id>
class PieceEncoder {
 public:
  explicit PieceEncoder(const MergeTable& merges);
  /// Appends the ids of consecutive pieces that start at p. Bytes up to `readable_end` may be read.
  void encode(const uint8_t* p, std::span<const uint32_t> lengths, const uint8_t* readable_end,
              std::vector<Id>& out);

 private:
  /// 16 bytes of key and 16 of ids (up to 31 and 32 in the cache of longer pieces).
  template <int words>
  struct Entry {
    static constexpr size_t kMaxIds = 8 * words / sizeof(Id) - 1;
    WordKey<words> key;
    Id ids[kMaxIds];
    Id count;
  };
  /// Two entries per bucket, the newer first.
  template <int words>
  struct Cache {
    std::vector<Entry<words>> entries;
    size_t mask;
    explicit Cache(size_t buckets) : entries(2 * buckets), mask(buckets - 1) {}
    Entry<words>* bucket(const WordKey<words>& key) { return &entries[(key.hash() & mask) * 2]; }
  };
  template <int words>
  void lookup(Entry<words>* bucket, const WordKey<words>& key, const uint8_t* p, size_t n,
              std::vector<Id>& out);

  const MergeTable& merges_;
  Cache<2> short_;
  Cache<4> long_;
};

}  // namespace jambalaya
