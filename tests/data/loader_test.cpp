#include "data/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <random>
#include <set>

#include "kernels/error.h"
#include "tests/support/token_store.h"

namespace jambalaya {
namespace {

using test::byte_tokenizer;
using test::TemporaryFolder;

/// A store whose documents are known: document i of length lengths[i] holds, after bos, numbers that tell
/// where it is.
class Store {
 public:
  explicit Store(const std::vector<int64_t>& lengths, double held_out = 0) {
    tokenizer_.vocab_size = 1 << 24;
    std::string lines;
    for (size_t i = 0; i < lengths.size(); i++) lines += "{\"text\": \"" + std::to_string(i) + "\"}\n";
    const std::string file = folder_.write("a.jsonl", lines);
    auto encode = [&](std::string_view text, std::vector<int32_t>& ids) {
      const size_t i = size_t(std::stoi(std::string(text)));
      for (int64_t k = 1; k + 1 < lengths[i]; k++) ids.push_back(int32_t(i * 1000 + size_t(k) + 10));
    };
    encode_dataset({file}, folder_.path("store"), tokenizer_, encode,
                   {.held_out_share = held_out, .shard_bytes = 4000}, 1);
    dataset_ = std::make_unique<Dataset>(folder_.path("store"));
  }
  const TokenSplit& train() const { return dataset_->train(); }
  const TokenSplit& held_out() const { return dataset_->held_out(); }
  std::string shard_path(size_t i) const {
    return folder_.path("store/" + dataset_->manifest().shards[i].name);
  }
  std::string path() const { return folder_.path("store"); }

 private:
  TemporaryFolder folder_;
  TokenizerRecord tokenizer_ = byte_tokenizer();
  std::unique_ptr<Dataset> dataset_;
};

std::vector<int64_t> many_lengths(size_t count) {
  std::mt19937 random(3);
  std::vector<int64_t> lengths;
  for (size_t i = 0; i < count; i++) lengths.push_back(2 + int64_t(random() % (i % 10 == 0 ? 700 : 60)));
  return lengths;
}

using Pairs = std::vector<std::pair<int32_t, int32_t>>;  // (id, target)

Pairs pairs_of(const HostBatch& batch) {
  Pairs pairs;
  for (size_t t = 0; t < batch.ids.size(); t++) pairs.push_back({batch.ids[t], batch.targets[t]});
  return pairs;
}

/// All (id, target) pairs of whole documents, sorted: what an epoch must consist of.
Pairs expected_pairs(const TokenSplit& split) {
  Pairs pairs;
  for (int64_t d = 0; d < split.documents(); d++) {
    const std::vector<int32_t> ids = split.document(d);
    for (size_t k = 0; k < ids.size(); k++) pairs.push_back({ids[k], k + 1 < ids.size() ? ids[k + 1] : -100});
  }
  std::sort(pairs.begin(), pairs.end());
  return pairs;
}

void check_batch(const HostBatch& batch, int64_t rows, int64_t length) {
  ASSERT_EQ(int64_t(batch.ids.size()), rows * length);
  ASSERT_EQ(batch.ids.size(), batch.targets.size());
  EXPECT_EQ(batch.counted,
            std::count_if(batch.targets.begin(), batch.targets.end(), [](int32_t t) { return t >= 0; }));
  size_t t = 0;
  for (int64_t segment : batch.lengths) {
    ASSERT_GT(segment, 0);
    EXPECT_LE(int64_t(t) % length + segment, length) << "a segment crosses a row's end";
    for (int64_t k = 0; k + 1 < segment; k++, t++) EXPECT_EQ(batch.targets[t], batch.ids[t + 1]);
    if (batch.ids[t] == 2) {
      EXPECT_EQ(batch.targets[t], -100);
    } else {
      EXPECT_TRUE(batch.targets[t] == 2 || batch.targets[t] >= 10) << "a target is of another document";
    }
    t++;
  }
  EXPECT_EQ(t, batch.ids.size());
}

TEST(permutation, visits_each_number_once_and_differs_by_key) {
  for (uint64_t n : {1, 2, 3, 4, 5, 16, 17, 1000, 4097}) {
    const KeyedPermutation a(n, 1), b(n, 2);
    std::set<uint64_t> seen;
    uint64_t same = 0;
    for (uint64_t i = 0; i < n; i++) {
      EXPECT_LT(a(i), n);
      seen.insert(a(i));
      same += a(i) == b(i);
    }
    EXPECT_EQ(seen.size(), n);
    if (n >= 1000) {
      EXPECT_LT(same, 20u);
    }
  }
}

TEST(permutation, spreads_neighbours_evenly) {
  constexpr uint64_t n = 100000;
  const KeyedPermutation p(n, 42);
  double sum = 0;  // of the correlation between i and p(i)
  uint64_t ascents = 0;
  for (uint64_t i = 0; i + 1 < n; i++) {
    sum += (double(i) / n - 0.5) * (double(p(i)) / n - 0.5);
    ascents += p(i) < p(i + 1);
  }
  EXPECT_LT(std::abs(sum * 12 / n), 0.02);
  EXPECT_NEAR(double(ascents) / n, 0.5, 0.01);
}

class epoch_order : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(chunks, epoch_order, testing::Values(1, 7, 64, 1000, 1 << 20));

TEST_P(epoch_order, each_token_exactly_once_however_it_is_cut) {
  std::vector<uint32_t> lengths;
  for (int64_t length : many_lengths(300)) lengths.push_back(uint32_t(length));
  for (uint64_t epoch : {0, 1, 5}) {
    const EpochOrder order(lengths, 9, epoch, GetParam());
    std::mt19937 random(1);
    std::vector<std::vector<int>> seen;
    for (uint32_t length : lengths) seen.push_back(std::vector<int>(length));
    for (int64_t at = 0; at < order.tokens();) {
      const int64_t n = std::min<int64_t>(1 + random() % 900, order.tokens() - at);
      std::vector<Piece> pieces;
      order.append_pieces(at, n, pieces);
      int64_t total = 0;
      for (const Piece& piece : pieces) {
        total += piece.length;
        for (int64_t k = 0; k < piece.length; k++)
          seen.at(size_t(piece.document)).at(size_t(piece.begin + k))++;
      }
      ASSERT_EQ(total, n);
      at += n;
    }
    for (const auto& document : seen)
      for (int count : document) ASSERT_EQ(count, 1);
  }
}

TEST(loader, an_epoch_holds_every_token_and_target_once_while_the_length_changes) {
  const Store store(many_lengths(400));
  const int64_t epoch = int64_t(store.train().totals().tokens);
  Loader loader(store.train(), {.seed = 5, .sequence_length = 32, .rows = 3, .chunk = 96});
  Pairs stream;
  const std::pair<int64_t, int64_t> shapes[] = {{32, 3}, {96, 2}, {50, 1}, {33, 7}};
  for (int step = 0; int64_t(stream.size()) < 3 * epoch; step++) {
    const auto [length, rows] = shapes[step / 10 % 4];
    if (step % 10 == 0) loader.set_shape(length, rows);
    const HostBatch batch = loader.next();
    check_batch(batch, rows, length);
    const Pairs pairs = pairs_of(batch);
    stream.insert(stream.end(), pairs.begin(), pairs.end());
  }
  const Pairs expected = expected_pairs(store.train());
  for (int e = 0; e < 3; e++) {
    Pairs of_epoch(stream.begin() + e * epoch, stream.begin() + (e + 1) * epoch);
    if (e > 0) {
      EXPECT_FALSE(std::equal(of_epoch.begin(), of_epoch.end(), stream.begin())) << "epochs repeat one order";
    }
    std::sort(of_epoch.begin(), of_epoch.end());
    EXPECT_EQ(of_epoch, expected);
  }
}

TEST(loader, rows_of_a_length_that_divides_the_chunk_are_cut_nowhere_else) {
  const Store store({900, 900, 900, 900});
  Loader loader(store.train(), {.sequence_length = 50, .rows = 1, .chunk = 100});
  int64_t cut_inside = 0;
  for (int i = 0; i < 4 * 72; i++) {
    const HostBatch batch = loader.next();
    int64_t borders = 0;
    for (int32_t id : batch.ids) borders += id == 1;
    if (!batch.lengths.empty())
      cut_inside += int64_t(batch.lengths.size()) - 1 - borders + (batch.ids[0] == 1);
  }
  EXPECT_LE(cut_inside, 4);  // at most one where two epochs meet
}

TEST(loader, restored_at_any_batch_it_gives_the_same_stream) {
  const Store store(many_lengths(120));
  const LoaderOptions options{.seed = 3, .sequence_length = 40, .rows = 4};
  Loader through(store.train(), options);
  std::vector<std::string> states;
  std::vector<Pairs> batches;
  for (int i = 0; i < 60; i++) {
    states.push_back(through.state().to_json());
    batches.push_back(pairs_of(through.next()));
  }
  EXPECT_GT(through.state().epoch, 0);
  EXPECT_EQ(through.state().samples, 240);
  for (size_t i = 0; i < 60; i++) {
    Loader resumed(store.train(), {.seed = 99, .sequence_length = 40, .rows = 4});
    resumed.next();
    resumed.restore(LoaderState::parse(states[i]));
    EXPECT_EQ(resumed.state().to_json(), states[i]);
    for (size_t k = i; k < std::min<size_t>(i + 3, 60); k++)
      ASSERT_EQ(pairs_of(resumed.next()), batches[k]) << i;
  }
}

TEST(loader, the_global_order_does_not_depend_on_the_world_size) {
  const Store store(many_lengths(120));
  std::vector<Pairs> orders;
  for (int world : {1, 2, 3, 4}) {
    std::vector<std::unique_ptr<Loader>> ranks;
    for (int rank = 0; rank < world; rank++)
      ranks.push_back(std::make_unique<Loader>(
          store.train(), LoaderOptions{.sequence_length = 40, .rows = 10, .rank = rank, .world = world}));
    Pairs order;
    for (int step = 0; step < 30; step++)
      for (auto& rank : ranks) {
        const Pairs pairs = pairs_of(rank->next());
        order.insert(order.end(), pairs.begin(), pairs.end());
      }
    for (auto& rank : ranks) EXPECT_EQ(rank->state().to_json(), ranks[0]->state().to_json());
    orders.push_back(order);
  }
  for (const Pairs& order : orders) EXPECT_EQ(order, orders[0]);
}

TEST(loader, the_seed_decides_the_order) {
  const Store store(many_lengths(120));
  auto first = [&](uint64_t seed) {
    return pairs_of(Loader(store.train(), {.seed = seed, .sequence_length = 512, .rows = 2}).next());
  };
  EXPECT_EQ(first(1), first(1));
  EXPECT_NE(first(1), first(2));
}

TEST(loader, a_split_shorter_than_a_row_is_repeated_within_it) {
  const Store store({5, 4});
  Loader loader(store.train(), {.sequence_length = 30, .rows = 2});
  for (int i = 0; i < 5; i++) check_batch(loader.next(), 2, 30);
}

TEST(loader, records_of_other_data_or_of_nonsense_are_refused) {
  const Store a({50, 60}), b({50, 61});
  Loader loader(a.train(), {.sequence_length = 30});
  const LoaderState state = Loader(b.train(), {.sequence_length = 30}).state();
  EXPECT_THROW(loader.restore(state), Error);
  for (const char* text : {"", "{}", "[]", "{\"format\":\"jambalaya-loader\",\"version\":2}"})
    EXPECT_THROW(LoaderState::parse(text), Error);
  EXPECT_THROW(Loader(a.held_out(), {.sequence_length = 30}), Error);
  EXPECT_THROW(Loader(a.train(), {.sequence_length = 0}), Error);
  EXPECT_THROW(Loader(a.train(), {.sequence_length = 8, .rows = 1, .rank = 0, .world = 2}), Error);
}

TEST(loader, a_damaged_block_is_reported_by_next) {
  const Store store(many_lengths(200));
  const std::string path = store.shard_path(1);
  const Dataset opened(store.path());
  // The damage comes after the store was opened, as a failing disk would do it.
  std::fstream(path, std::ios::in | std::ios::out | std::ios::binary).seekp(8192 + 11).put('\xee');
  Loader loader(opened.train(), {.sequence_length = 64, .rows = 8});
  try {
    for (int i = 0; i < 1000; i++) loader.next();
    ADD_FAILURE() << "not noticed";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::bad_input);
    EXPECT_NE(std::string(error.what()).find(path + ": block 0"), std::string::npos) << error.what();
  }
  EXPECT_THROW(loader.next(), Error);
}

TEST(held_out, counts_whole_documents_and_all_their_targets) {
  const Store store(many_lengths(600), 0.3);
  const TokenSplit& split = store.held_out();
  for (int world : {1, 2, 3}) {
    const HeldOut evaluation(split, 48, 5);
    Pairs pairs;
    int64_t counted = 0;
    for (int64_t i = 0; i < evaluation.batches(); i++)
      for (int rank = 0; rank < world; rank++) {
        const HostBatch batch = evaluation.batch(i, rank, world);
        counted += batch.counted;
        const Pairs more = pairs_of(batch);
        pairs.insert(pairs.end(), more.begin(), more.end());
      }
    EXPECT_EQ(pairs[0].first, 1);
    EXPECT_EQ(counted, evaluation.targets());
    EXPECT_EQ(evaluation.bytes(), split.totals().raw_bytes);
    EXPECT_EQ(evaluation.documents(), split.documents());
    std::sort(pairs.begin(), pairs.end());
    EXPECT_EQ(pairs, expected_pairs(split));
  }
}

TEST(held_out, a_limit_takes_whole_documents_and_always_the_same) {
  const Store store(many_lengths(600), 0.3);
  const TokenSplit& split = store.held_out();
  const HeldOut some(split, 48, 5, 2000), same(split, 16, 3, 2000), least(split, 48, 5, 1);
  EXPECT_LE(some.tokens(), 2000);
  EXPECT_GT(some.tokens(), 1000);
  EXPECT_EQ(some.bytes(), same.bytes());
  EXPECT_EQ(some.targets(), same.targets());
  EXPECT_EQ(least.documents(), 1);
  EXPECT_EQ(HeldOut(split, 48, 5, 1 << 30).documents(), split.documents());
}

}  // namespace
}  // namespace jambalaya
