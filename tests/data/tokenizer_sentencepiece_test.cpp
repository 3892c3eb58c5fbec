// Tokenizers of the shape that conversion from SentencePiece gives, against Hugging Face's library
// (tests/goldens/tokenizer_sentencepiece).
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "data/tokenizer.h"
#include "kernels/error.h"
#include "tests/support/text.h"

namespace jambalaya {
namespace {

using Ids = std::vector<uint32_t>;
using nlohmann::json;

std::string golden_file(const std::string& name) {
  return testing::read_file(std::string(JAMBALAYA_SOURCE_DIR) + "/tests/goldens/tokenizer_sentencepiece/" +
                            name);
}

json base(const std::string& name = "tokenizer.json") {
  static std::map<std::string, json> files;
  if (!files.contains(name)) files[name] = json::parse(golden_file(name));
  return files[name];
}

/// `file` with other members; what is said of "model" is merged into it (RFC 7386).
json changed(json file, const json& change) {
  for (const auto& [key, value] : change.items())
    if (key == "model")
      file[key].merge_patch(value);
    else
      file[key] = value;
  return file;
}

const Tokenizer& golden() {
  static const Tokenizer tokenizer = Tokenizer::from_json(golden_file("tokenizer.json"), "golden");
  return tokenizer;
}

const std::map<std::string, Tokenizer>& variants() {
  static const auto all = [] {
    std::map<std::string, Tokenizer> out;
    const json recipes = json::parse(golden_file("variants.json"));
    for (const auto& [name, recipe] : recipes.items()) {
      const json file = changed(base(recipe[0].get<std::string>()), recipe[1]);
      out.emplace(name, Tokenizer::from_json(file.dump(), name));
    }
    return out;
  }();
  return all;
}

TEST(TokenizerSentencePiece, ids_and_decoded_texts_are_those_of_the_golden) {
  std::istringstream lines(golden_file("cases.jsonl"));
  std::map<std::string, int> texts, lists;
  for (std::string line; std::getline(lines, line);) {
    const json record = json::parse(line);
    const Tokenizer& tokenizer = variants().at(record[0].get<std::string>());
    const Ids ids = record[2].get<Ids>();
    if (!record[1].is_null()) {
      const std::string text = record[1].get<std::string>();
      ASSERT_EQ(tokenizer.encode(text, {.parse_special = true}), ids) << line;
      Ids full = tokenizer.encode(text, {.parse_special = true, .add_bos = true});
      ASSERT_EQ(full.size(), ids.size() + 1) << line;
      ASSERT_EQ(full[0], 1u) << line;
    }
    (record[1].is_null() ? lists : texts)[record[0].get<std::string>()]++;
    for (size_t skip : {0, 1}) {
      const json& decoded = record[3 + skip].is_null() ? record[1] : record[3 + skip];
      ASSERT_EQ(tokenizer.decode(ids, skip == 1), decoded.get<std::string>()) << line;
    }
  }
  for (const auto& [name, tokenizer] : variants()) {
    EXPECT_GE(texts[name], 70) << name;
    EXPECT_EQ(lists[name], 20) << name;
  }
}

TEST(TokenizerSentencePiece, special_ids_are_those_of_the_released_models) {
  EXPECT_EQ(golden().vocab_size(), 1400);
  EXPECT_EQ(golden().pad(), 0);
  EXPECT_EQ(golden().bos(), 1);
  EXPECT_EQ(golden().eos(), 2);
  EXPECT_EQ(golden().unk(), 3);
  EXPECT_TRUE(golden().exact_split());
  EXPECT_EQ(golden().id_to_bytes(4 + 0xE4), "\xE4");
}

TEST(TokenizerSentencePiece, any_text_but_the_stand_in_of_the_blank_decodes_to_itself) {
  std::mt19937 random(1);
  for (int i = 0; i < 300; i++) {
    const std::string text = testing::random_text(random, int(random() % 200));
    if (text.find("\xE2\x96\x81") != std::string::npos || text.find("<0x") != std::string::npos) continue;
    ASSERT_EQ(golden().decode(golden().encode(text)), text);
  }
}

/// The ids of a document do not depend on where it may be cut: `joined` has merges across blanks, and no
/// border at most of them.
TEST(TokenizerSentencePiece, long_documents_follow_the_rule_of_lowest_rank_first) {
  for (const char* name : {"jamba", "joined"}) {
    const Tokenizer& tokenizer = variants().at(name);
    std::map<std::pair<uint32_t, uint32_t>, size_t> rank;
    const BpeModel& model = tokenizer.model();
    for (size_t r = 0; r < model.merges.size(); r++) rank[{model.merges[r].left, model.merges[r].right}] = r;
    const std::string text = testing::read_file(testing::golden_path("corpus.txt")).substr(3000, 2500);
    Ids ids;
    for (char c : text) {
      ASSERT_LT(uint8_t(c), 0x80);
      const std::string character = c == ' ' ? "\xE2\x96\x81" : std::string(1, c);
      if (int64_t id = tokenizer.id_of(character); id >= 0)
        ids.push_back(uint32_t(id));
      else
        ids.push_back(uint32_t(4 + c));
    }
    for (;;) {
      size_t best = SIZE_MAX, place = 0;
      for (size_t i = 0; i + 1 < ids.size(); i++)
        if (auto r = rank.find({ids[i], ids[i + 1]}); r != rank.end() && r->second < best)
          best = r->second, place = i;
      if (best == SIZE_MAX) break;
      ids[place] = model.merges[best].result;
      ids.erase(ids.begin() + long(place) + 1);
    }
    EXPECT_EQ(tokenizer.encode(text), ids) << name;
  }
}

TEST(TokenizerSentencePiece, documents_give_the_same_ids_for_any_number_of_threads) {
  std::string corpus = testing::read_file(testing::golden_path("corpus.txt")), large;
  for (int i = 0; i < 8; i++) large += corpus;  // above the size at which byte-level documents are cut
  const std::vector<std::string_view> documents{"", large, " x", corpus};
  for (const char* name : {"llama", "metaspace_first"}) {
    const Tokenizer& tokenizer = variants().at(name);
    Ids expected;
    for (std::string_view text : documents) tokenizer.encode_into(text, {.add_bos = true}, expected);
    for (int threads : {1, 3}) {
      ThreadPool pool(threads);
      EXPECT_EQ(tokenizer.encode_documents<uint32_t>(documents, {.add_bos = true}, pool).ids, expected);
    }
  }
}

TEST(TokenizerSentencePiece, special_tokens_in_text_are_plain_text_unless_asked_for) {
  const std::string text = "x<|endoftext|>y";
  for (uint32_t id : golden().encode(text)) EXPECT_FALSE(golden().is_special(id));
  EXPECT_EQ(golden().decode(golden().encode(text)), text);
}

TEST(TokenizerSentencePiece, what_follows_a_prompt_keeps_its_blank) {
  for (const char* name : {"jamba", "llama", "metaspace_first"}) {
    const Tokenizer& tokenizer = variants().at(name);
    const std::string prompt = "The river", text = prompt + " runs";
    const Ids before = tokenizer.encode(prompt), all = tokenizer.encode(text);
    ASSERT_TRUE(std::equal(before.begin(), before.end(), all.begin())) << name;
    const Ids after(all.begin() + long(before.size()), all.end());
    EXPECT_EQ(tokenizer.decode_after(before, after), " runs") << name;
    EXPECT_EQ(tokenizer.decode_after({}, all), text) << name;
  }
}

TEST(TokenizerSentencePiece, huge_words_are_encoded_in_near_linear_time) {
  for (const std::string part : {"a", "\xE4\xB8\xAD", " "}) {
    std::string word;
    while (word.size() < 500'000) word += part;
    EXPECT_EQ(golden().decode(golden().encode(word)), word);
  }
}

TEST(TokenizerSentencePiece, what_is_not_supported_is_refused_by_name) {
  auto refuse = [](const char* patch, const std::string& message) {
    try {
      Tokenizer::from_json(changed(base(), json::parse(patch)).dump(), "file.json");
      ADD_FAILURE() << "accepted; expected: " << message;
    } catch (const Error& e) {
      EXPECT_EQ(e.exit(), Exit::bad_input);
      EXPECT_TRUE(std::string(e.what()).starts_with("file.json: ")) << e.what();
      EXPECT_NE(std::string(e.what()).find(message), std::string::npos) << e.what();
    }
  };
  refuse(R"({"normalizer": {"type": "NFKC"}})", "normalizer \"NFKC\"");
  refuse(R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled"}]}})",
         "normalizer \"Precompiled\"");
  refuse(R"({"normalizer": {"type": "Replace", "pattern": {"Regex": " +"}, "content": "x"}})",
         "only a String");
  refuse(R"({"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}})", "empty");
  refuse(R"({"normalizer": {"type": "Prepend", "prepend": "_", "extra": 1}})", "extra");
  refuse(R"({"pre_tokenizer": {"type": "Whitespace"}})", "pre_tokenizer \"Whitespace\"");
  refuse(R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "__"}})", "not one character");
  refuse(R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "last"}})",
         "\"last\"");
  refuse(
      R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "add_prefix_space": false}})",
      "contradicts");
  refuse(
      R"({"normalizer": {"type": "Prepend", "prepend": "_"},
          "pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first"}})",
      "moves characters");
  refuse(R"({"decoder": null})", "decoder null");
  refuse(R"({"decoder": {"type": "WordPiece"}})", "decoder \"WordPiece\"");
  refuse(R"({"decoder": {"type": "Strip", "content": " ", "start": 1, "stop": 1}})", "stop above 0");
  refuse(R"({"decoder": {"type": "Strip", "content": "", "start": 1, "stop": 0}})", "not one character");
  refuse(R"({"decoder": {"type": "Strip", "content": " ", "start": -1, "stop": 0}})", "not a number");
  json doubling = json::array();
  for (int i = 0; i < 40; i++)
    doubling.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}});
  refuse(json{{"normalizer", {{"type", "Sequence"}, {"normalizers", doubling}}}}.dump().c_str(),
         "normalizer: its steps");
  refuse(json{{"decoder", {{"type", "Sequence"}, {"decoders", doubling}}}}.dump().c_str(),
         "decoder: its steps");
  refuse(R"({"model": {"unk_token": "<nothing>"}})", "<nothing>");
  refuse(R"({"model": {"byte_fallback": "yes"}})", "byte_fallback");
  refuse(R"({"model": {"continuing_subword_prefix": "##"}})", "continuing_subword_prefix");
  refuse(R"({"added_tokens": [{"id": 0, "content": "<|pad|>", "single_word": true}]})", "single_word");
  refuse(
      R"({"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}, {"Sequence": {"id": "B"}}]}})",
      "BOS $A");
}

TEST(TokenizerSentencePiece, random_damage_is_an_error_or_a_tokenizer) {
  std::mt19937 random(9);
  const std::string file = base().dump();
  for (int i = 0; i < 60; i++) {
    std::string damaged = file;
    // Most of the file is merges and vocabulary; the ends hold everything else.
    const size_t end = random() % 1500;
    damaged[i % 2 ? file.size() - 1 - end : end] = char(random());
    try {
      Tokenizer tokenizer = Tokenizer::from_json(damaged, "damaged");
      tokenizer.decode(tokenizer.encode("some text \xE4\xB8\xAD 12"));
    } catch (const Error& e) {
      EXPECT_EQ(e.exit(), Exit::bad_input);
    }
  }
}

}  // namespace
}  // namespace jambalaya
