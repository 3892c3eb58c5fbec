#include "data/word_count.h"

namespace jambalaya {

WordCounter::WordCounter() : short_(1 << 14), long_(1 << 8) {}

void WordCounter::add(const uint8_t* p, size_t n, const uint8_t* readable_end, int64_t count) {
  if (n <= ShortKey::kMaxLength)
    add_short(make_key<2>(p, n, readable_end), count);
  else
    add_long(p, n, count);
}

void WordCounter::add_short(const ShortKey& key, int64_t count) {
  size_t mask = short_.size() - 1;
  for (size_t i = key.hash() & mask;; i = (i + 1) & mask) {
    Short& e = short_[i];
    if (e.key == key) {
      e.count += count;
      return;
    }
    if (e.key.empty()) {
      e = {key, count};
      unique_bytes_ += key.length();
      if (++short_used_ * 2 > short_.size()) grow_short();
      return;
    }
  }
}

void WordCounter::add_long(const uint8_t* p, size_t n, int64_t count) {
  uint64_t hash = hash_bytes(p, n);
  size_t mask = long_.size() - 1;
  for (size_t i = hash & mask;; i = (i + 1) & mask) {
    Long& e = long_[i];
    if (e.count == 0) {
      e = {hash, arena_.size(), uint32_t(n), count};
      arena_.insert(arena_.end(), p, p + n);
      unique_bytes_ += n;
      if (++long_used_ * 2 > long_.size()) grow_long();
      return;
    }
    if (e.hash == hash && e.length == n && std::memcmp(&arena_[e.offset], p, n) == 0) {
      e.count += count;
      return;
    }
  }
}

void WordCounter::grow_short() {
  std::vector<Short> old(short_.size() * 2);
  old.swap(short_);
  size_t mask = short_.size() - 1;
  for (const Short& e : old) {
    if (e.key.empty()) continue;
    size_t i = e.key.hash() & mask;
    while (!short_[i].key.empty()) i = (i + 1) & mask;
    short_[i] = e;
  }
}

void WordCounter::grow_long() {
  std::vector<Long> old(long_.size() * 2);
  old.swap(long_);
  size_t mask = long_.size() - 1;
  for (const Long& e : old) {
    if (e.count == 0) continue;
    size_t i = e.hash & mask;
    while (long_[i].count) i = (i + 1) & mask;
    long_[i] = e;
  }
}

void WordCounter::merge(const WordCounter& other) {
  for (const Short& e : other.short_)
    if (!e.key.empty()) add_short(e.key, e.count);
  for (const Long& e : other.long_)
    if (e.count) add_long(&other.arena_[e.offset], e.length, e.count);
}

}  // namespace jambalaya
