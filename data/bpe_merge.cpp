#include "data/bpe_merge.h"

#include <algorithm>

#include "kernels/error.h"

namespace jambalaya {

uint32_t PairSlots::find(uint32_t key) const {
  size_t mask = table_.size() - 1;
  for (size_t i = spread(key) & mask; table_[i] != ~0ull; i = (i + 1) & mask)
    if (table_[i] >> 32 == key) return uint32_t(table_[i]);
  return kNone;
}

void PairSlots::insert(uint32_t key, uint32_t slot) {
  if (++used_ * 2 > table_.size()) {
    std::vector<uint64_t> old(table_.size() * 2, ~0ull);
    old.swap(table_);
    used_ = 1;
    for (uint64_t e : old)
      if (e != ~0ull) insert(uint32_t(e >> 32), uint32_t(e));
  }
  size_t mask = table_.size() - 1, i = spread(key) & mask;
  while (table_[i] != ~0ull) i = (i + 1) & mask;
  table_[i] = uint64_t(key) << 32 | slot;
}

MergeLoop::MergeLoop(const WordCounter& words, const std::array<uint32_t, 256>& id_of_byte,
                     std::vector<std::string> tokens)
    : tokens_(std::move(tokens)), left_(1 << 16), right_(1 << 16) {
  uint64_t cells = words.unique_bytes() + words.unique() + 1;
  if (cells >= kSeparator)
    throw Error(Exit::bad_input, cat("the unique words of the corpus take ", words.unique_bytes(),
                                     " bytes; BPE training handles up to 2 GiB: train on a sample"));
  for (uint32_t id = 0; id < tokens_.size(); id++) {
    length_.push_back(uint32_t(tokens_[id].size()));
    id_of_token_.try_emplace(tokens_[id], id);
  }
  cells_.reserve(cells);
  word_of_cell_.reserve(cells);
  auto put = [&](uint32_t cell, size_t word) {
    cells_.push_back(cell);
    word_of_cell_.push_back(uint32_t(word));
  };
  put(kSeparator, 0);
  words.for_each([&](std::string_view word, int64_t count) {
    for (char byte : word) put(id_of_byte[uint8_t(byte)], word_count_.size());
    put(kSeparator, word_count_.size());
    word_count_.push_back(count);
  });
  index_pairs();
}

void MergeLoop::index_pairs() {
  // Two passes: count the places of each pair, then fill lists of exactly that size.
  size_t ids = tokens_.size();
  std::vector<uint32_t> slot_of(ids * ids, PairSlots::kNone), size;
  std::vector<uint32_t> keys;
  auto each_pair = [&](auto&& f) {
    for (size_t i = 1; i + 1 < cells_.size(); i++)
      if (cells_[i] != kSeparator && cells_[i + 1] != kSeparator)
        f(i, slot_of[cells_[i] * ids + cells_[i + 1]]);
  };
  each_pair([&](size_t i, uint32_t& slot) {
    if (slot == PairSlots::kNone) {
      slot = uint32_t(keys.size());
      keys.push_back(cells_[i] << 16 | cells_[i + 1]);
      size.push_back(0);
      pair_count_.push_back(0);
    }
    size[slot]++;
    pair_count_[slot] += word_count_[word_of_cell_[i]];  // overlapping windows count: "aaa" has (a, a) twice
  });
  lists_.resize(keys.size());
  for (size_t s = 0; s < keys.size(); s++) lists_[s].reserve(size[s]);
  each_pair([&](size_t i, uint32_t slot) { lists_[slot].push_back(uint32_t(i)); });
  for (uint32_t s = 0; s < keys.size(); s++) {
    slots_.insert(keys[s], s);
    queue_.push_back({pair_count_[s], keys[s], s, s});
  }
  std::make_heap(queue_.begin(), queue_.end(), before);
}

void MergeLoop::push(uint32_t key, uint32_t slot, const std::vector<uint32_t>& places) {
  queue_.push_back({pair_count_[slot], key, slot, uint32_t(lists_.size())});
  std::push_heap(queue_.begin(), queue_.end(), before);
  lists_.emplace_back(places.begin(), places.end());
}

MergeLoop::Neighbour& MergeLoop::touch(std::vector<Neighbour>& side, std::vector<uint32_t>& touched,
                                       uint32_t token, uint32_t key) {
  Neighbour& neighbour = side[token];
  if (neighbour.epoch != epoch_) {
    neighbour = {epoch_, uint32_t(fresh_used_++), 0};
    if (fresh_.size() < fresh_used_) fresh_.emplace_back();
    fresh_[neighbour.fresh].key = key;
    fresh_[neighbour.fresh].gained = 0;
    fresh_[neighbour.fresh].places.clear();
    touched.push_back(token);
  }
  return neighbour;
}

uint32_t MergeLoop::id_for(uint32_t a, uint32_t b) {
  // Two different pairs may spell the same token (runs such as "-----"): the id is shared, the vocabulary
  // does not grow, both merges are kept.
  auto [place, is_new] = id_of_token_.try_emplace(tokens_[a] + tokens_[b], uint32_t(tokens_.size()));
  if (is_new) {
    tokens_.push_back(place->first);
    length_.push_back(uint32_t(place->first.size()));
  }
  return place->second;
}

void MergeLoop::merge_everywhere(uint32_t a, uint32_t b, uint32_t n, const std::vector<uint32_t>& places) {
  constexpr size_t kAhead = 12;  // the cells of a place are far from those of the one before
  for (size_t k = 0; k < places.size(); k++) {
    if (k + kAhead < places.size()) {
      __builtin_prefetch(&cells_[places[k + kAhead]], 1);
      __builtin_prefetch(&word_of_cell_[places[k + kAhead]]);
    }
    uint32_t i = places[k];
    if (cells_[i] != a) continue;  // the place is stale
    uint32_t j = i + length_[a];
    if (cells_[j] != b) continue;
    uint32_t end = j + length_[b], previous = cells_[i - 1], next = cells_[end];
    int64_t count = word_count_[word_of_cell_[i]];
    if (j - 1 != i) cells_[j - 1] = kInside;
    cells_[j] = kInside;
    cells_[i] = n;
    cells_[end - 1] = n | kEnd;
    if (previous != kSeparator) {
      uint32_t x = previous & ~kEnd;
      Neighbour& l = touch(left_, touched_left_, x, x << 16 | n);
      fresh_[l.fresh].gained += count;
      fresh_[l.fresh].places.push_back(i - length_[x]);
      // In a run the left neighbour is a result of this very merge: the pair that goes is (n, a), not (x, a).
      if (x == n)
        fresh_[touch(right_, touched_right_, a, n << 16 | a).fresh].gained -= count;
      else
        l.lost += count;
    }
    if (next != kSeparator) {
      Neighbour& r = touch(right_, touched_right_, next, n << 16 | next);
      fresh_[r.fresh].gained += count;
      fresh_[r.fresh].places.push_back(i);
      r.lost += count;
    }
  }
}

void MergeLoop::settle(uint32_t a, uint32_t b, uint32_t n) {
  auto lose = [&](uint32_t key, int64_t lost) {
    if (!lost) return;
    uint32_t slot = slots_.find(key);
    JAMBALAYA_CHECK(slot != PairSlots::kNone, "a pair that was never counted");
    pair_count_[slot] -= lost;
  };
  for (uint32_t x : touched_left_) lose(x << 16 | a, left_[x].lost);
  for (uint32_t y : touched_right_) lose(b << 16 | y, right_[y].lost);
  if (left_[n].epoch == epoch_ &&
      right_[n].epoch == epoch_) {  // (n, n) from both sides: possible when n is shared
    Fresh &into = fresh_[left_[n].fresh], &from = fresh_[right_[n].fresh];
    into.gained += from.gained;
    into.places.insert(into.places.end(), from.places.begin(), from.places.end());
    std::sort(into.places.begin(), into.places.end());
    from.gained = 0;
    from.places.clear();
  }
  for (size_t f = 0; f < fresh_used_; f++) {
    Fresh& fresh = fresh_[f];
    if (fresh.places.empty() && fresh.gained == 0) continue;
    uint32_t slot = slots_.find(fresh.key);
    if (slot == PairSlots::kNone) {
      if (fresh.gained == 0) continue;  // came and went within a run
      slot = uint32_t(pair_count_.size());
      pair_count_.push_back(0);
      slots_.insert(fresh.key, slot);
    }
    pair_count_[slot] += fresh.gained;
    if (pair_count_[slot] > 0 && !fresh.places.empty()) push(fresh.key, slot, fresh.places);
  }
}

std::vector<Merge> MergeLoop::run(size_t vocab_size, int64_t min_frequency,
                                  const std::function<void(size_t)>& progress) {
  std::vector<Merge> merges;
  while (tokens_.size() < vocab_size && !queue_.empty()) {
    std::pop_heap(queue_.begin(), queue_.end(), before);
    Candidate top = queue_.back();
    queue_.pop_back();
    if (top.count != pair_count_[top.slot]) {
      top.count = pair_count_[top.slot];
      if (top.count <= 0) continue;
      queue_.push_back(top);
      std::push_heap(queue_.begin(), queue_.end(), before);
      continue;
    }
    if (top.count < std::max<int64_t>(1, min_frequency)) break;
    uint32_t a = top.key >> 16, b = top.key & 0xffff, n = id_for(a, b);
    merges.push_back({a, b, n});
    std::vector<uint32_t> places = std::move(lists_[top.list]);
    lists_[top.list] = {};
    epoch_++;
    fresh_used_ = 0;
    touched_left_.clear();
    touched_right_.clear();
    merge_everywhere(a, b, n, places);
    settle(a, b, n);
    if (progress && merges.size() % 256 == 0) progress(tokens_.size());
  }
  return merges;
}

}  // namespace jambalaya
