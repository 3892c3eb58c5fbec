// How often each word occurs: all that BPE training needs to know of a corpus.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "data/word_key.h"

namespace jambalaya {

/// Open-addressed tables: words up to 15 bytes lie inside their entry, longer ones in an arena.
class WordCounter {
 public:
  WordCounter();

  /// Adds `count` occurrences of p[0, n), n >= 1. Bytes up to `readable_end` >= p + n may be read.
  void add(const uint8_t* p, size_t n, const uint8_t* readable_end, int64_t count = 1);
  void merge(const WordCounter& other);

  size_t unique() const { return short_used_ + long_used_; }
  /// Bytes of all unique words together.
  uint64_t unique_bytes() const { return unique_bytes_; }

  /// f(word, count) for every word, in no particular order.
  template <class F>
  void for_each(F&& f) const {
    for (const Short& e : short_)
      if (!e.key.empty())
        f(std::string_view(reinterpret_cast<const char*>(e.key.w), e.key.length()), e.count);
    for (const Long& e : long_)
      if (e.count) f(std::string_view(reinterpret_cast<const char*>(&arena_[e.offset]), e.length), e.count);
  }

 private:
  struct Short {
    ShortKey key;
    int64_t count;
  };
  struct Long {
    uint64_t hash, offset;
    uint32_t length;
    int64_t count;
  };
  void add_short(const ShortKey& key, int64_t count);
  void add_long(const uint8_t* p, size_t n, int64_t count);
  void grow_short();
  void grow_long();

  std::vector<Short> short_;
  std::vector<Long> long_;
  std::vector<uint8_t> arena_;
  size_t short_used_ = 0, long_used_ = 0;
  uint64_t unique_bytes_ = 0;
};

}  // namespace jambalaya
