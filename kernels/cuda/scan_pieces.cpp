#include <algorithm>
#include <cstring>

#include "kernels/cuda/scan.h"
#include "kernels/transfer.h"

namespace jambalaya::cuda {

namespace {

constexpr int kFields = sizeof(ScanPiece) / sizeof(int32_t);
static_assert(sizeof(ScanPiece) == kFields * sizeof(int32_t));

void cut_into(ScanPieces& pieces, int64_t segment, int64_t begin, int64_t end, int64_t longest) {
  pieces.runs.push_back(int32_t(pieces.cut.size()));
  for (int64_t t = begin, next; t < end; t = next) {
    next = std::min(end, div_up(t + longest, kScanChunk) * kScanChunk);
    pieces.cut.push_back({.begin = int32_t(t),
                          .end = int32_t(next),
                          .segment = int32_t(segment),
                          .slot = int32_t(pieces.cut.size()),
                          .enters = t > begin,
                          .leaves = next < end});
    pieces.all.push_back(pieces.cut.back());
  }
  pieces.runs.push_back(int32_t(pieces.cut.size()));
}

}  // namespace

ScanPieces cut_scan(const Documents& docs, int64_t longest, int64_t group) {
  ScanPieces pieces;
  for (int64_t s = 0; s < docs.count; s++) {
    const int64_t begin = docs.offsets[s], end = docs.offsets[s + 1];
    if (begin == end) continue;
    if (end - begin > longest) {
      cut_into(pieces, s, begin, end, longest);
    } else if (!pieces.all.empty() && pieces.all.back().slot < 0 && end - pieces.all.back().begin <= group) {
      pieces.all.back().end = int32_t(end);
    } else {
      pieces.all.push_back({.begin = int32_t(begin),
                            .end = int32_t(end),
                            .segment = int32_t(s),
                            .slot = -1,
                            .enters = 0,
                            .leaves = 0});
    }
  }
  return pieces;
}

ScanPieces cut_segment(int64_t segment, int64_t begin, int64_t end, int64_t longest) {
  ScanPieces pieces;
  cut_into(pieces, segment, begin, end, longest);
  return pieces;
}

void to_device(const Context& ctx, ScanPieces& pieces) {
  const int64_t all = int64_t(pieces.all.size()) * kFields, cut = pieces.cuts() * kFields;
  std::vector<int32_t> host(size_t(all + cut) + pieces.runs.size());
  auto put = [&](int64_t at, const void* from, size_t bytes) {
    if (bytes) std::memcpy(host.data() + at, from, bytes);
  };
  put(0, pieces.all.data(), size_t(all) * 4);
  put(all, pieces.cut.data(), size_t(cut) * 4);
  put(all + cut, pieces.runs.data(), pieces.runs.size() * 4);
  const int32_t* there = to_device(ctx, host, *ctx.scratch, "scan pieces").ptr<int32_t>();
  pieces.device_all = reinterpret_cast<const ScanPiece*>(there);
  pieces.device_cut = reinterpret_cast<const ScanPiece*>(there + all);
  pieces.device_runs = there + all + cut;
}

int64_t piece_tokens(int64_t tokens, int64_t threads, int64_t wanted) {
  int64_t longest = kShortestPiece;
  while (2 * longest * wanted <= tokens * threads) longest *= 2;
  return longest;
}

int64_t longest_segment(const Documents& docs) {
  int64_t longest = 0;
  for (int64_t s = 0; s < docs.count; s++)
    longest = std::max<int64_t>(longest, docs.offsets[s + 1] - docs.offsets[s]);
  return longest;
}

}  // namespace jambalaya::cuda
