#include "data/packing.h"

#include <algorithm>
#include <bit>

#include "kernels/error.h"
#include "kernels/philox.h"

namespace jambalaya {

namespace {

constexpr size_t stride = 16;  // documents between two stored starts

int64_t sum(const std::vector<uint32_t>& lengths) {
  int64_t total = 0;
  for (uint32_t length : lengths) total += length;
  return total;
}

/// Tokens from the start of an epoch, at epoch * tokens of the stream, to the next multiple of `chunk`.
int64_t to_next_cut(int64_t epoch, int64_t tokens, int64_t chunk) {
  return (chunk - (epoch % chunk) * (tokens % chunk) % chunk) % chunk;  // chunks are far below 2^31 tokens
}

/// splitmix64's finaliser.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

}  // namespace

KeyedPermutation::KeyedPermutation(uint64_t n, uint64_t key) : n_(n) {
  half_bits_ = n <= 4 ? 1 : uint32_t(std::bit_width(n - 1) + 1) / 2;
  mask_ = (uint64_t(1) << half_bits_) - 1;
  for (uint64_t r = 0; r < 6; r++) round_keys_[r] = mix(key + (r + 1) * 0x9E3779B97F4A7C15ull);
}

uint64_t KeyedPermutation::operator()(uint64_t i) const {
  JAMBALAYA_CHECK(i < n_, i, " of ", n_);
  do {
    uint64_t left = i >> half_bits_, right = i & mask_;
    for (uint64_t key : round_keys_) {
      const uint64_t next = left ^ (mix(right + key) & mask_);
      left = right;
      right = next;
    }
    i = left << half_bits_ | right;
  } while (i >= n_);
  return i;
}

EpochOrder::EpochOrder(const std::vector<uint32_t>& lengths, uint64_t seed, uint64_t epoch, int64_t chunk)
    : lengths_(lengths),
      epoch_(epoch),
      chunk_(chunk),
      tokens_(sum(lengths)),
      head_(std::min(tokens_, to_next_cut(int64_t(epoch), tokens_, chunk))),
      documents_(lengths.size(), hash_name(seed + epoch * 0x9E3779B97F4A7C15ull, "documents")),
      chunks_(uint64_t((tokens_ - head_) / chunk),
              hash_name(seed + epoch * 0x9E3779B97F4A7C15ull, "chunks")) {
  JAMBALAYA_CHECK(chunk >= 1 && chunk < int64_t(1) << 31 && !lengths.empty());
  starts_.reserve(lengths.size() / stride + 1);
  int64_t start = 0;
  for (size_t i = 0; i < lengths.size(); i++) {
    if (i % stride == 0) starts_.push_back(start);
    start += lengths[documents_(i)];
  }
}

void EpochOrder::append_pieces(int64_t begin, int64_t count, std::vector<Piece>& pieces) const {
  JAMBALAYA_CHECK(begin >= 0 && count >= 0 && begin + count <= tokens_, begin, " + ", count, " of ", tokens_);
  if (begin < head_ && count > 0) {
    const int64_t n = std::min(count, head_ - begin);
    append_line(begin, n, pieces);
    begin += n;
    count -= n;
  }
  const int64_t whole = (tokens_ - head_) / chunk_;
  while (count > 0) {
    const int64_t slot = (begin - head_) / chunk_, offset = (begin - head_) % chunk_;
    const int64_t chunk = slot < whole ? int64_t(chunks_(uint64_t(slot))) : slot;
    const int64_t n = std::min(count, chunk_ - offset);
    append_line(head_ + chunk * chunk_ + offset, n, pieces);
    begin += n;
    count -= n;
  }
}

/// Pieces at [begin, begin + count) of the line of documents, before its chunks are shuffled.
void EpochOrder::append_line(int64_t begin, int64_t count, std::vector<Piece>& pieces) const {
  const auto after = std::upper_bound(starts_.begin(), starts_.end(), begin);
  size_t i = size_t(after - starts_.begin() - 1) * stride;
  int64_t start = *(after - 1);
  uint64_t document = documents_(i);
  while (start + int64_t(lengths_[document]) <= begin) {
    start += lengths_[document];
    document = documents_(++i);
  }
  for (;;) {
    const int64_t within = begin - start, n = std::min(count, int64_t(lengths_[document]) - within);
    pieces.push_back({int64_t(document), within, n});
    begin += n;
    count -= n;
    if (count == 0) return;
    start = begin;
    document = documents_(++i);
  }
}

}  // namespace jambalaya
