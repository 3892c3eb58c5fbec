// Where tokens lie under context parallelism: pure bookkeeping, checked by brute force over tokens.
#include "parallel/context_shard.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

namespace jambalaya {
namespace {

const std::vector<std::vector<int64_t>> kStreams = {
    {1}, {5}, {24}, {3, 1, 7, 2}, {1, 1, 1, 1, 1}, {2, 0, 30, 0, 1}, {8, 8, 8}, {17, 40, 3}};

/// Document of each token of the stream.
std::vector<int> documents_of(const std::vector<int64_t>& lengths) {
  std::vector<int> document;
  for (size_t d = 0; d < lengths.size(); d++) document.insert(document.end(), size_t(lengths[d]), int(d));
  return document;
}

TEST(ContextShard, every_token_lies_on_exactly_one_rank_in_both_orders) {
  for (const auto& lengths : kStreams)
    for (int ranks = 1; ranks <= 5; ranks++) {
      const int64_t total = std::accumulate(lengths.begin(), lengths.end(), int64_t(0));
      std::vector<int> contiguous(size_t(total), 0), balanced(size_t(total), 0);
      for (int r = 0; r < ranks; r++) {
        const ContextShard shard(lengths, r, ranks);
        for (int64_t t = shard.range(r).begin; t < shard.range(r).end; t++) contiguous[size_t(t)]++;
        for (int64_t i : {shard.first_chunk(r), shard.second_chunk(r)})
          for (int64_t t = shard.chunk(i).begin; t < shard.chunk(i).end; t++) balanced[size_t(t)]++;
        EXPECT_EQ(shard.documents().tokens, shard.tokens());
      }
      EXPECT_EQ(contiguous, std::vector<int>(size_t(total), 1));
      EXPECT_EQ(balanced, std::vector<int>(size_t(total), 1));
    }
}

TEST(ContextShard, segments_know_their_place_in_their_documents) {
  for (const auto& lengths : kStreams)
    for (int ranks = 1; ranks <= 5; ranks++)
      for (int r = 0; r < ranks; r++) {
        const ContextShard shard(lengths, r, ranks);
        const std::vector<int> document = documents_of(lengths);
        const Documents& docs = shard.documents();
        for (int64_t t = 0; t < docs.tokens; t++) {
          const int64_t global = shard.range(r).begin + t;
          int64_t position = 0;
          while (position < global && document[size_t(global - position - 1)] == document[size_t(global)])
            position++;
          EXPECT_EQ(docs.position(t), position);
        }
        const int64_t end = shard.range(r).end;
        const bool open = docs.tokens > 0 && end < int64_t(document.size()) &&
                          document[size_t(end)] == document[size_t(end - 1)];
        EXPECT_EQ(docs.open_end, open);
      }
}

/// The exchange carries token numbers into the order of the chunks.
TEST(ContextShard, exchange_brings_each_row_to_its_chunk_and_back) {
  for (int64_t total : {1, 2, 7, 24, 61})
    for (int ranks = 1; ranks <= 6; ranks++) {
      std::vector<RowExchange> to;
      std::vector<ContextShard> shards;
      for (int r = 0; r < ranks; r++) {
        shards.emplace_back(std::vector<int64_t>{total}, r, ranks);
        to.push_back(shards.back().to_balanced());
      }
      for (int r = 0; r < ranks; r++) {
        std::vector<int64_t> received(size_t(shards[size_t(r)].balanced_tokens(r)), -1), expected;
        for (int p = 0; p < ranks; p++) {
          const RowExchange& sender = to[size_t(p)];
          ASSERT_EQ(sender.send_rows[size_t(r)], to[size_t(r)].receive_rows[size_t(p)]);
          for (int64_t i = 0; i < sender.send_rows[size_t(r)]; i++)
            received[size_t(to[size_t(r)].receive_starts[size_t(p)] + i)] =
                shards[size_t(p)].range(p).begin + sender.send_starts[size_t(r)] + i;
        }
        for (int64_t c : {shards[size_t(r)].first_chunk(r), shards[size_t(r)].second_chunk(r)})
          for (int64_t t = shards[size_t(r)].chunk(c).begin; t < shards[size_t(r)].chunk(c).end; t++)
            expected.push_back(t);
        EXPECT_EQ(received, expected);
      }
    }
}

/// Over all chunks of keys, a query sees each token of its document's past, and itself, exactly once.
TEST(ContextShard, queries_see_their_past_once_over_all_key_chunks) {
  for (const auto& lengths : kStreams)
    for (int ranks = 1; ranks <= 4; ranks++) {
      const ContextShard shard(lengths, 0, ranks);
      const std::vector<int> document = documents_of(lengths);
      for (int64_t a = 0; a < 2 * ranks; a++) {
        const TokenRange queries = shard.chunk(a);
        std::vector<std::multiset<int64_t>> seen(size_t(queries.count()));
        for (int64_t b = 0; b <= a; b++) {
          const TokenRange keys = shard.chunk(b);
          const VisibleKeys v = visible_keys(lengths, queries, keys);
          int64_t q = 0;
          for (size_t s = 0; s < v.lengths.size(); s++)
            for (int64_t i = 0; i < v.lengths[s]; i++, q++)
              for (int64_t k = 0; k < std::min(v.first_positions[s] + i + 1, v.key_count[s]); k++)
                seen[size_t(q)].insert(keys.begin + v.key_begin[s] + k);
        }
        for (int64_t q = 0; q < queries.count(); q++) {
          std::multiset<int64_t> expected;
          for (int64_t t = 0; t <= queries.begin + q; t++)
            if (document[size_t(t)] == document[size_t(queries.begin + q)]) expected.insert(t);
          EXPECT_EQ(seen[size_t(q)], expected) << "query " << queries.begin + q;
        }
      }
    }
}

}  // namespace
}  // namespace jambalaya
