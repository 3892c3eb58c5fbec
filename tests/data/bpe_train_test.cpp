#include "data/bpe_train.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "data/tokenizer_json.h"
#include "kernels/error.h"
#include "tests/support/text.h"

namespace jambalaya {
namespace {

BpeModel train(const std::string& text, BpeTrainOptions options, int threads = 1) {
  ThreadPool pool(threads);
  BpeTrainer trainer(options, pool);
  trainer.add_text(text, "text");
  return trainer.finish();
}

BpeTrainOptions with_size(int64_t vocab_size) {
  BpeTrainOptions options;
  options.vocab_size = vocab_size;
  return options;
}

TEST(BpeTrain, file_is_the_golden_byte_for_byte) {
  ThreadPool pool(1);
  BpeModel model = train_bpe({testing::golden_path("corpus.txt")}, with_size(2048), pool);
  EXPECT_EQ(write_tokenizer_json(model), testing::read_file(testing::golden_path("tokenizer.json")));
}

TEST(BpeTrain, result_does_not_depend_on_threads_or_order_of_texts) {
  std::string corpus = testing::read_file(testing::golden_path("corpus.txt"));
  size_t third = corpus.find('\n', corpus.size() / 3) + 1;
  std::string whole;
  for (int copy = 0; copy < 30; copy++) whole += corpus;  // several blocks
  BpeModel expected = train(whole, with_size(1500));
  for (int threads : {2, 3}) EXPECT_EQ(train(whole, with_size(1500), threads).merges, expected.merges);
  ThreadPool pool(2);
  BpeTrainer other(with_size(1500), pool);
  for (int copy = 0; copy < 30; copy++) {
    other.add_text(corpus.substr(third), "b");
    other.add_text(corpus.substr(0, third), "a");
  }
  EXPECT_EQ(other.finish().merges, expected.merges);
}

/// Hugging Face's rule by recounting everything after each merge, for words given with counts.
std::vector<std::string> merges_by_recounting(const std::map<std::string, int64_t>& counts,
                                              size_t vocab_size) {
  const ByteAlphabet& alphabet = ByteAlphabet::get();
  std::vector<std::string> tokens(4);
  std::map<std::string, uint32_t> ids;
  for (uint8_t b : alphabet.by_order)
    ids[std::string(1, char(b))] = uint32_t(tokens.size()), tokens.emplace_back(1, char(b));
  std::vector<std::pair<std::vector<uint32_t>, int64_t>> words;
  for (const auto& [word, count] : counts) {
    std::vector<uint32_t> cells;
    for (char c : word) cells.push_back(ids.at(std::string(1, c)));
    words.push_back({cells, count});
  }
  std::vector<std::string> merges;
  while (tokens.size() < vocab_size) {
    std::map<std::pair<uint32_t, uint32_t>, int64_t> pairs;
    for (const auto& [cells, count] : words)
      for (size_t i = 0; i + 1 < cells.size(); i++) pairs[{cells[i], cells[i + 1]}] += count;
    auto best = pairs.begin();
    for (auto p = pairs.begin(); p != pairs.end(); ++p)
      if (p->second > best->second) best = p;  // the map's order breaks ties
    if (pairs.empty()) break;
    auto [a, b] = best->first;
    merges.push_back(tokens[a] + " " + tokens[b]);
    auto [place, is_new] = ids.try_emplace(tokens[a] + tokens[b], uint32_t(tokens.size()));
    if (is_new) tokens.push_back(place->first);
    for (auto& [cells, count] : words)
      for (size_t i = 0; i + 1 < cells.size(); i++)
        if (cells[i] == a && cells[i + 1] == b)
          cells[i] = place->second, cells.erase(cells.begin() + long(i) + 1);
  }
  return merges;
}

TEST(BpeTrain, merges_are_those_of_recounting_everything) {
  std::mt19937 random(11);
  for (int round = 0; round < 40; round++) {
    std::map<std::string, int64_t> words;  // few letters: many ties and runs
    for (int w = 0; w < 30; w++) {
      std::string word;
      for (size_t n = 1 + random() % 12; n-- > 0;) word += "ab\xC3 -"[random() % 5];
      words[word] = 1 + int64_t(random() % 4);
    }
    ThreadPool pool(1);
    BpeTrainer trainer(with_size(330), pool);
    for (const auto& [word, count] : words) trainer.add_word(word, count);
    BpeModel model = trainer.finish();
    std::vector<std::string> ours;
    for (const Merge& m : model.merges) {
      const ByteAlphabet& alphabet = ByteAlphabet::get();
      ours.push_back(alphabet.bytes_of(model.tokens[m.left]) + " " +
                     alphabet.bytes_of(model.tokens[m.right]));
    }
    ASSERT_EQ(ours, merges_by_recounting(words, 330)) << round;
  }
}

TEST(BpeTrain, counts_beyond_32_bits) {
  ThreadPool pool(1);
  BpeTrainer trainer(with_size(261), pool);
  trainer.add_word("ab", 3'000'000'000);
  trainer.add_word("cd", 2'999'999'999);
  trainer.add_word("cd", 2'000'000'000);
  BpeModel model = trainer.finish();
  ASSERT_EQ(model.merges.size(), 1u);
  EXPECT_EQ(model.tokens.back(), "cd");
}

TEST(BpeTrain, min_frequency_stops_and_short_text_gives_fewer_ids) {
  BpeTrainOptions options = with_size(1000);
  options.min_frequency = 3;
  BpeModel model = train("xy xy xy zw zw\n", options);
  EXPECT_EQ(model.tokens.size(), 261u);
  EXPECT_EQ(model.tokens.back(), "xy");
  EXPECT_EQ(train("", with_size(1000)).tokens.size(), 260u);
}

TEST(BpeTrain, digits_and_lines_never_merge) {
  std::string text;
  for (int i = 0; i < 200; i++) text += "2024 1999 12345\n\n\nx1y2\n";
  for (const std::string& token : train(text, with_size(400)).tokens) {
    std::string bytes = ByteAlphabet::get().bytes_of(token);
    if (bytes.size() < 2 || bytes.starts_with("<|")) continue;
    EXPECT_EQ(bytes.find_first_of("0123456789"), std::string::npos) << bytes;
    EXPECT_LE(std::count(bytes.begin(), bytes.end(), '\n'), 1) << bytes;
  }
}

TEST(BpeTrain, special_tokens_in_the_text_are_ordinary_text_when_training) {
  BpeModel model = train("<|pad|> <|pad|> <|pad|>\n", with_size(300));
  EXPECT_GT(model.merges.size(), 0u);
  EXPECT_EQ(model.tokens[0], "<|pad|>");
}

template <class F>
void expect_refused(Exit exit, const std::string& message, F&& f) {
  try {
    f();
    ADD_FAILURE() << "accepted; expected: " << message;
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), exit) << e.what();
    EXPECT_NE(std::string(e.what()).find(message), std::string::npos) << e.what();
  }
}

TEST(BpeTrain, invalid_utf8_is_refused_with_its_place_or_replaced) {
  std::string path = ::testing::TempDir() + "bpe_train_invalid.txt", text;
  for (int i = 0; i < 700'000; i++) text += "a line\n";  // beyond the first block
  size_t place = text.size() + 3;
  text += "caf\xE9 au lait\nand \xFF\n";
  std::ofstream(path, std::ios::binary) << text;
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    expect_refused(Exit::bad_input, cat(path, ":", place, ": byte 233"),
                   [&] { train_bpe({path}, with_size(300), pool); });
  }
  ThreadPool pool(1);
  BpeTrainOptions options = with_size(300);
  options.invalid = InvalidUtf8::replace;
  std::string repaired = replace_invalid_utf8(text);
  EXPECT_EQ(train_bpe({path}, options, pool).merges, train(repaired, with_size(300)).merges);
  std::filesystem::remove(path);
}

TEST(BpeTrain, impossible_requests_are_refused) {
  ThreadPool pool(1);
  auto refuse = [&](BpeTrainOptions options, const std::string& message) {
    expect_refused(Exit::usage, message, [&] { BpeTrainer(options, pool); });
  };
  refuse(with_size(259), "260");
  refuse(with_size(65537), "65536");
  BpeTrainOptions options;
  options.special_tokens = {"<|a|>", "<|a|>"};
  refuse(options, "twice");
  options.special_tokens = {"the"};
  refuse(options, "ordinary word");
  options.special_tokens = {"<|a|>"};
  refuse(options, "bos");
  expect_refused(Exit::io, "/no/such/file", [&] { train_bpe({"/no/such/file"}, with_size(300), pool); });
  expect_refused(Exit::io, "irectory", [&] { train_bpe({"/"}, with_size(300), pool); });
}

TEST(BpeTrain, progress_is_reported_and_ends_with_the_vocabulary) {
  std::vector<TrainProgress> seen;
  BpeTrainOptions options = with_size(1000);
  options.progress = [&](const TrainProgress& p) { seen.push_back(p); };
  std::string corpus = testing::read_file(testing::golden_path("corpus.txt"));
  train(corpus, options, 2);
  ASSERT_GE(seen.size(), 3u);
  EXPECT_EQ(seen.front().phase, TrainProgress::Phase::counting);
  EXPECT_EQ(seen.front().done, corpus.size());
  EXPECT_EQ(seen.back().phase, TrainProgress::Phase::merging);
  EXPECT_EQ(seen.back().done, 1000u);
}

}  // namespace
}  // namespace jambalaya
