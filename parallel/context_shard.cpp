#include "parallel/context_shard.h"

#include <algorithm>
#include <utility>

#include "kernels/error.h"

namespace jambalaya {

StreamPart part_of_stream(const std::vector<int64_t>& lengths, TokenRange range) {
  StreamPart part;
  int64_t start = 0;
  for (int64_t length : lengths) {
    const int64_t begin = std::max(start, range.begin), end = std::min(start + length, range.end);
    if (begin < end) {
      part.lengths.push_back(end - begin);
      part.first_positions.push_back(begin - start);
      part.starts.push_back(start);
      part.open_end = start + length > range.end;
    }
    start += length;
  }
  return part;
}

VisibleKeys visible_keys(const std::vector<int64_t>& lengths, TokenRange queries, TokenRange keys) {
  const StreamPart part = part_of_stream(lengths, queries);
  VisibleKeys visible{.lengths = part.lengths, .first_positions = {}, .key_begin = {}, .key_count = {}};
  int64_t query = queries.begin;
  for (size_t s = 0; s < part.lengths.size(); s++) {
    // The document's keys up to the segment's last query: later ones are in no query's past.
    const int64_t first = std::max(part.starts[s], keys.begin);
    const int64_t last = std::min(query + part.lengths[s], keys.end);
    const int64_t count = std::max<int64_t>(last - first, 0);
    visible.key_count.push_back(count);
    visible.key_begin.push_back(count ? first - keys.begin : 0);
    // Keys after the first query lie in the queries' own chunk and begin no later than the segment there.
    JAMBALAYA_CHECK(count == 0 || first <= query, "keys from ", first, ", queries from ", query);
    visible.first_positions.push_back(count ? query - first : 0);
    visible.any = visible.any || count > 0;
    query += part.lengths[s];
  }
  return visible;
}

ContextShard::ContextShard(std::vector<int64_t> lengths, int rank, int ranks)
    : lengths_(std::move(lengths)), rank_(rank), ranks_(ranks) {
  JAMBALAYA_CHECK(rank >= 0 && rank < ranks, "context rank ", rank, " of ", ranks);
  for (int64_t n : lengths_) total_ += n;
  for (int r = 0; r < ranks_; r++) parts_.push_back(part_of_stream(lengths_, range(r)));
  const StreamPart& own = part(rank_);
  buffer_.assign(own.lengths, own.first_positions);
  view_ = buffer_.view();
  view_.open_end = own.open_end;
}

TokenRange ContextShard::chunk(int64_t i) const {
  return {total_ * i / (2 * ranks_), total_ * (i + 1) / (2 * ranks_)};
}

int ContextShard::owner(int64_t chunk) const { return int(chunk < ranks_ ? chunk : 2 * ranks_ - 1 - chunk); }

RowExchange ContextShard::to_balanced() const {
  const std::vector<int64_t> none(size_t(ranks_), 0);
  RowExchange e{none, none, none, none};
  auto add = [&](std::vector<int64_t>& rows, std::vector<int64_t>& starts, int64_t peer, int64_t at,
                 int64_t n) {
    // Two chunks for one peer are neighbours in both orders, so the first one's place serves both.
    if (rows[size_t(peer)] == 0) starts[size_t(peer)] = at;
    rows[size_t(peer)] += n;
  };
  int64_t at = 0;
  for (int64_t i : {2 * rank_, 2 * rank_ + 1}) {
    add(e.send_rows, e.send_starts, owner(i), at, chunk(i).count());
    at += chunk(i).count();
  }
  at = 0;
  for (int64_t i : {first_chunk(rank_), second_chunk(rank_)}) {
    add(e.receive_rows, e.receive_starts, i / 2, at, chunk(i).count());
    at += chunk(i).count();
  }
  return e;
}

}  // namespace jambalaya
