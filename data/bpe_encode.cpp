#include "data/bpe_encode.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "kernels/error.h"

namespace jambalaya {

MergeTable::MergeTable(const BpeModel& model) {
  JAMBALAYA_CHECK(model.tokens.size() < kMaxIds && model.merges.size() < kMaxMerges,
                  "packed keys hold 21 bits of an id");
  index_merges(model);
  if (model.sentence_piece)
    characters_ = std::make_unique<CharacterSymbols>(model);
  else
    index_bytes(model);
  if (!model.ignore_merges) return;
  for (uint32_t id = 0; id < model.tokens.size(); id++) {
    if (!model.in_vocabulary[id]) continue;
    bool spelled = true;
    std::string bytes =
        characters_ ? model.tokens[id] : ByteAlphabet::get().bytes_of(model.tokens[id], &spelled);
    if (spelled) whole_.emplace(std::move(bytes), id);
  }
}

void MergeTable::index_merges(const BpeModel& model) {
  size_t size = std::bit_ceil(model.merges.size() * 2 + 16);
  slots_.assign(size, ~0ull);
  shift_ = 64 - std::countr_zero(size);
  for (uint32_t r = 0; r < model.merges.size(); r++) {
    const Merge& m = model.merges[r];
    result_.push_back(m.result);
    uint64_t key = uint64_t(m.left) << 21 | m.right;
    size_t i = spread(key) >> shift_;
    while (slots_[i] != ~0ull && slots_[i] >> 22 != key) i = (i + 1) & (size - 1);
    slots_[i] = key << 22 | r;
  }
}

void MergeTable::index_bytes(const BpeModel& model) {
  std::unordered_map<std::string_view, uint32_t> byte_ids;
  for (uint32_t id = 0; id < model.tokens.size(); id++)
    if (model.in_vocabulary[id] && model.tokens[id].size() <= 2) byte_ids.emplace(model.tokens[id], id);
  for (int b = 0; b < 256; b++) {
    auto found = byte_ids.find(ByteAlphabet::get().spell(std::string(1, char(b))));
    JAMBALAYA_CHECK(found != byte_ids.end(), "byte ", b, " has no id");
    id_of_byte_[size_t(b)] = found->second;
  }
  byte_pair_rank_.resize(1 << 16);
  for (size_t a = 0; a < 256; a++)
    for (size_t b = 0; b < 256; b++) byte_pair_rank_[a << 8 | b] = rank(id_of_byte_[a], id_of_byte_[b]);
}

size_t MergeTable::merge_short(uint32_t* ids, uint32_t* ranks, size_t n) const {
  // ranks[i] belongs to the pair (i, i + 1); ranks[n - 1] is kNone.
  for (;;) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; i++) best = ranks[i] < ranks[best] ? i : best;
    if (ranks[best] == kNone) return n;
    ids[best] = result_[ranks[best]];
    std::copy(ids + best + 2, ids + n, ids + best + 1);
    std::copy(ranks + best + 2, ranks + n, ranks + best + 1);
    n--;
    ranks[best] = best + 1 < n ? rank(ids[best], ids[best + 1]) : kNone;
    if (best > 0) ranks[best - 1] = rank(ids[best - 1], ids[best]);
  }
}

std::vector<uint32_t> MergeTable::merge_long(const std::vector<uint32_t>& symbols) const {
  const size_t n = symbols.size();
  struct Node {
    uint32_t id, rank, previous, next;  ///< rank of the pair with `next`; kNone at the ends
  };
  std::vector<Node> nodes(n);
  std::vector<uint64_t> heap;  // rank << 32 | position: lowest rank first, then leftmost
  auto rank_at = [&](uint32_t i) {
    Node& node = nodes[i];
    node.rank = node.next == kNone ? kNone : rank(node.id, nodes[node.next].id);
    if (node.rank == kNone) return;
    heap.push_back(uint64_t(node.rank) << 32 | i);
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  for (uint32_t i = 0; i < n; i++)
    nodes[i] = {symbols[i], i + 1 < n ? rank(symbols[i], symbols[i + 1]) : kNone, i ? i - 1 : kNone,
                i + 1 < n ? i + 1 : kNone};
  for (uint32_t i = 0; i < n; i++)
    if (nodes[i].rank != kNone) heap.push_back(uint64_t(nodes[i].rank) << 32 | i);
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  while (!heap.empty()) {
    uint32_t i = uint32_t(heap.front()), r = uint32_t(heap.front() >> 32);
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    heap.pop_back();
    if (nodes[i].rank != r) continue;  // the pair there has changed since
    uint32_t j = nodes[i].next;
    nodes[i].id = result_[r];
    nodes[i].next = nodes[j].next;
    nodes[j].rank = kNone;
    if (nodes[j].next != kNone) nodes[nodes[j].next].previous = i;
    rank_at(i);
    if (nodes[i].previous != kNone) rank_at(nodes[i].previous);
  }
  std::vector<uint32_t> ids;
  for (uint32_t i = 0; i != kNone; i = nodes[i].next) ids.push_back(nodes[i].id);
  return ids;
}

template <class Id>
void MergeTable::merge_symbols(const std::vector<uint32_t>& symbols, std::vector<Id>& out) const {
  size_t n = symbols.size();
  if (n > kShort) {
    std::vector<uint32_t> ids = merge_long(symbols);
    out.insert(out.end(), ids.begin(), ids.end());
    return;
  }
  if (n == 0) return;  // characters that the model leaves out
  uint32_t ids[kShort], ranks[kShort];
  std::copy(symbols.begin(), symbols.end(), ids);
  for (size_t i = 0; i + 1 < n; i++) ranks[i] = rank(ids[i], ids[i + 1]);
  ranks[n - 1] = kNone;
  n = merge_short(ids, ranks, n);
  out.insert(out.end(), ids, ids + n);
}

template <class Id>
void MergeTable::encode(const uint8_t* p, size_t n, std::vector<Id>& out) const {
  if (!whole_.empty()) {
    auto found = whole_.find(std::string(reinterpret_cast<const char*>(p), n));
    if (found != whole_.end()) {
      out.push_back(Id(found->second));
      return;
    }
  }
  if (characters_ || n > kShort) {
    std::vector<uint32_t> symbols;
    symbols.reserve(n);
    if (characters_)
      characters_->append({reinterpret_cast<const char*>(p), n}, symbols);
    else
      for (size_t i = 0; i < n; i++) symbols.push_back(id_of_byte_[p[i]]);
    return merge_symbols(symbols, out);
  }
  uint32_t ids[kShort], ranks[kShort];
  for (size_t i = 0; i < n; i++) ids[i] = id_of_byte_[p[i]];
  for (size_t i = 0; i + 1 < n; i++) ranks[i] = byte_pair_rank_[size_t(p[i]) << 8 | p[i + 1]];
  ranks[n - 1] = kNone;
  n = merge_short(ids, ranks, n);
  out.insert(out.end(), ids, ids + n);
}

template <class Id>
PieceEncoder<Id>::PieceEncoder(const MergeTable& merges) : merges_(merges), short_(1 << 17), long_(1 << 13) {}

template <class Id>
template <int words>
void PieceEncoder<Id>::lookup(Entry<words>* bucket, const WordKey<words>& key, const uint8_t* p, size_t n,
                              std::vector<Id>& out) {
  constexpr size_t kMax = Entry<words>::kMaxIds;
  for (int way = 0; way < 2; way++) {
    const Entry<words>& e = bucket[way];
    if (!(e.key == key)) continue;
    size_t size = out.size();
    out.resize(size + kMax);  // copied whole, then cut: no loop over a length that cannot be predicted
    std::copy(e.ids, e.ids + kMax, &out[size]);
    out.resize(size + e.count);
    return;
  }
  size_t size = out.size();
  merges_.encode(p, n, out);
  size_t count = out.size() - size;
  if (count > kMax) return;
  bucket[1] = bucket[0];
  bucket[0].key = key;
  bucket[0].count = Id(count);
  std::copy(out.begin() + long(size), out.end(), bucket[0].ids);
}

template <class Id>
void PieceEncoder<Id>::encode(const uint8_t* p, std::span<const uint32_t> lengths,
                              const uint8_t* readable_end, std::vector<Id>& out) {
  // Keys first and buckets prefetched, then lookups: the cache is larger than a core's L2.
  constexpr size_t kBatch = 64;
  WordKey<2> keys[kBatch];
  Entry<2>* buckets[kBatch];
  for (size_t from = 0; from < lengths.size(); from += kBatch) {
    std::span<const uint32_t> batch = lengths.subspan(from, std::min(kBatch, lengths.size() - from));
    const uint8_t* q = p;
    for (size_t i = 0; i < batch.size(); q += batch[i++]) {
      if (batch[i] > ShortKey::kMaxLength) continue;
      keys[i] = make_key<2>(q, batch[i], readable_end);
      buckets[i] = short_.bucket(keys[i]);
      __builtin_prefetch(buckets[i]);
    }
    for (size_t i = 0; i < batch.size(); p += batch[i++]) {
      size_t n = batch[i];
      if (n <= ShortKey::kMaxLength) {
        lookup(buckets[i], keys[i], p, n, out);
      } else if (n <= LongKey::kMaxLength) {
        LongKey key = make_key<4>(p, n, readable_end);
        lookup(long_.bucket(key), key, p, n, out);
      } else {
        merges_.encode(p, n, out);
      }
    }
  }
}

template class PieceEncoder<uint16_t>;
template class PieceEncoder<uint32_t>;

}  // namespace jambalaya
