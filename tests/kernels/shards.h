// Cuts a packed stream into the contiguous ranges that context-parallel ranks hold.
#pragma once
#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/error.h"

namespace jambalaya::test {

/// Tokens [begin, end) of a stream: its segments, and whether the documents at its ends go on outside.
struct ShardOfStream {
  int64_t begin = 0, end = 0;
  std::vector<int64_t> lengths, first_positions;
  bool open_end = false;

  int64_t tokens() const { return end - begin; }
  bool continues_left() const { return tokens() > 0 && first_positions[0] > 0; }
};

/// Documents of these lengths, cut at `borders` (rising, may repeat). An empty document goes where the next
/// token is.
inline std::vector<ShardOfStream> cut_stream(const std::vector<int64_t>& documents,
                                             const std::vector<int64_t>& borders) {
  int64_t all = 0;
  for (int64_t n : documents) all += n;
  std::vector<ShardOfStream> shards(borders.size() + 1);
  for (size_t r = 0; r < shards.size(); r++) {
    ShardOfStream& shard = shards[r];
    shard.begin = r ? borders[r - 1] : 0;
    shard.end = r < borders.size() ? borders[r] : all;
    for (size_t d = 0, at = 0; d < documents.size(); at += size_t(documents[d++])) {
      const int64_t begin = int64_t(at), end = begin + documents[d];
      const int64_t from = std::max(begin, shard.begin), to = std::min(end, shard.end);
      if (from > to || (from == to && (begin != end || to == shard.end))) continue;
      shard.lengths.push_back(to - from);
      shard.first_positions.push_back(from - begin);
      shard.open_end = end > shard.end;
    }
  }
  return shards;
}

struct StreamCut {
  std::vector<int64_t> documents, borders;
  std::string describe() const {
    std::string text = "documents";
    for (int64_t n : documents) text += cat(" ", n);
    text += ", cut at";
    for (int64_t b : borders) text += cat(" ", b);
    return text;
  }
};

/// The cases that matter, and random ones: documents and cuts anywhere, shards without a token.
inline std::vector<StreamCut> stream_cuts(int random) {
  std::vector<StreamCut> cuts{
      {{150}, {70}},                     // inside one document
      {{150}, {1, 64, 149}},             // tiles, single tokens
      {{150}, {40, 40, 90}},             // a shard without a token, inside a document
      {{60, 5, 85}, {60, 65}},           // cuts at the borders of documents
      {{60, 5, 85}, {0, 60, 150}},       // shards without a token at both ends
      {{60, 5, 85}, {60, 60, 60}},       // ... and between documents
      {{50, 60, 40}, {30, 80, 130}},     // a border inside every shard
      {{20, 0, 1, 2, 0, 77}, {21, 22}},  // empty documents and short ones
      {{20, 20, 20, 20, 20, 20}, {50}},  // several whole documents in a shard
      {{9, 31}, {3, 4, 5}},              // shards shorter than a convolution is wide
      {{1}, {0, 1, 1}},                  // one token
      {{}, {0}},                         // none
  };
  std::mt19937_64 bits(5);
  auto below = [&](int64_t n) { return int64_t(bits() % uint64_t(n)); };
  for (int i = 0; i < random; i++) {
    StreamCut cut;
    int64_t all = 0;
    for (int64_t d = 1 + below(5); d > 0; d--) {
      cut.documents.push_back(below(4) ? below(50) : below(4));
      all += cut.documents.back();
    }
    for (int64_t b = 1 + below(3); b > 0; b--) cut.borders.push_back(below(all + 1));
    std::sort(cut.borders.begin(), cut.borders.end());
    cuts.push_back(cut);
  }
  return cuts;
}

}  // namespace jambalaya::test
