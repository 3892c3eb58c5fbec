#include "data/tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "kernels/error.h"
#include "tests/support/text.h"

namespace jambalaya {
namespace {

using Ids = std::vector<uint32_t>;
using nlohmann::json;

const Tokenizer& golden() {
  static const Tokenizer tokenizer = Tokenizer::load(testing::golden_path("tokenizer.json"));
  return tokenizer;
}

TEST(Tokenizer, ids_and_decoded_texts_are_those_of_the_golden) {
  std::istringstream lines(testing::read_file(testing::golden_path("encodings.jsonl")));
  size_t cases = 0;
  for (std::string line; std::getline(lines, line); cases++) {
    json record = json::parse(line);
    Ids ids = record["ids"].get<Ids>();
    ASSERT_EQ(golden().encode(record["text"].get<std::string>(), {.parse_special = true}), ids) << line;
    ASSERT_EQ(golden().decode(ids), record["decoded"].get<std::string>()) << line;
  }
  EXPECT_EQ(cases, 460u);
}

TEST(Tokenizer, whole_corpus_has_the_golden_ids) {
  std::string corpus = testing::read_file(testing::golden_path("corpus.txt"));
  json expected = json::parse(testing::read_file(testing::golden_path("corpus_encoding.json")));
  Ids ids = golden().encode(corpus);
  EXPECT_EQ(ids.size(), expected["tokens"].get<size_t>());
  ids.resize(64);
  EXPECT_EQ(ids, expected["first"].get<Ids>());
  EXPECT_EQ(golden().decode(golden().encode(corpus)), corpus);
}

TEST(Tokenizer, special_ids_are_0_to_3_and_bos_comes_first) {
  EXPECT_EQ(golden().vocab_size(), 2048);
  EXPECT_EQ(golden().pad(), 0);
  EXPECT_EQ(golden().bos(), 1);
  EXPECT_EQ(golden().eos(), 2);
  EXPECT_EQ(golden().unk(), 3);
  EXPECT_TRUE(golden().is_special(2));
  EXPECT_FALSE(golden().is_special(4));
  EXPECT_EQ(golden().id_of("<|endoftext|>"), 2);
  EXPECT_EQ(golden().id_of("no such token"), -1);
  EXPECT_EQ(golden().encode("", {.add_bos = true}), Ids{1});
  EXPECT_EQ(golden().encode("a", {.add_bos = true}), (Ids{1, 68}));
}

TEST(Tokenizer, special_tokens_in_text_are_plain_text_unless_asked_for) {
  std::string text = "x<|endoftext|>y<|pad|<|pad|>";
  Ids plain = golden().encode(text), parsed = golden().encode(text, {.parse_special = true});
  for (uint32_t id : plain) EXPECT_FALSE(golden().is_special(id));
  EXPECT_EQ(std::count_if(parsed.begin(), parsed.end(), [](uint32_t id) { return id < 4; }), 2);
  EXPECT_EQ(golden().decode(plain), text);
  EXPECT_EQ(golden().decode(parsed), text);
  EXPECT_EQ(golden().decode(parsed, true), "xy<|pad|");
}

TEST(Tokenizer, any_text_decodes_to_itself) {
  std::mt19937 random(1);
  for (int i = 0; i < 500; i++) {
    std::string text = testing::random_text(random, int(random() % 200));
    Ids ids = golden().encode(text);
    ASSERT_EQ(golden().decode(ids), text);
    std::string bytes;
    for (uint32_t id : ids) bytes += golden().id_to_bytes(id);
    ASSERT_EQ(bytes, text);
  }
}

TEST(Tokenizer, ids_do_not_depend_on_what_was_encoded_before) {
  std::mt19937 random(2);
  std::vector<std::string> texts;
  std::vector<Ids> fresh;
  for (int i = 0; i < 20; i++) {
    texts.push_back(testing::random_text(random, 200));
    fresh.push_back(Tokenizer::from_model(golden().model()).encode(texts.back()));  // empty cache
  }
  for (int round = 0; round < 3; round++)
    for (size_t i = 0; i < texts.size(); i++) ASSERT_EQ(golden().encode(texts[i]), fresh[i]);
}

TEST(Tokenizer, cut_characters_decode_to_replacement_characters) {
  Ids ids = golden().encode("\xE2\x82\xAC");  // the euro sign: no merge in this corpus
  ASSERT_GE(ids.size(), 2u);
  ids.pop_back();
  EXPECT_EQ(golden().decode(ids), "\xEF\xBF\xBD");
  EXPECT_THROW(golden().decode(Ids{2048}), Error);
}

TEST(Tokenizer, digits_are_single_tokens) {
  for (uint32_t id : golden().encode("1234567 a12b 3.14 x99")) {
    const std::string& bytes = golden().id_to_bytes(id);
    bool digit = bytes.find_first_of("0123456789") != std::string::npos;
    EXPECT_TRUE(!digit || bytes.size() == 1) << bytes;
  }
}

/// The rule itself: of all pairs that merge, the one of lowest rank, leftmost first, until none is left.
Ids merge_by_the_rule(const BpeModel& model, const std::string& word) {
  std::map<std::pair<uint32_t, uint32_t>, size_t> rank;
  for (size_t r = 0; r < model.merges.size(); r++) rank[{model.merges[r].left, model.merges[r].right}] = r;
  Ids ids;
  for (char c : word) ids.push_back(uint32_t(golden().id_of(ByteAlphabet::get().spell(std::string(1, c)))));
  for (;;) {
    size_t best = SIZE_MAX, place = 0;
    for (size_t i = 0; i + 1 < ids.size(); i++)
      if (auto r = rank.find({ids[i], ids[i + 1]}); r != rank.end() && r->second < best)
        best = r->second, place = i;
    if (best == SIZE_MAX) return ids;
    ids[place] = model.merges[best].result;
    ids.erase(ids.begin() + long(place) + 1);
  }
}

TEST(Tokenizer, words_of_any_length_follow_the_rule) {
  std::mt19937 random(4);  // lengths on both sides of what is cached, and of the change from array to heap
  for (size_t length : {1, 2, 7, 8, 9, 14, 15, 16, 17, 30, 31, 32, 33, 63, 64, 65, 66, 200, 500}) {
    for (int i = 0; i < 4; i++) {
      std::string word;
      while (word.size() < length) word += "etaoinshrdl"[random() % 11];
      ASSERT_EQ(golden().encode(word), merge_by_the_rule(golden().model(), word)) << word;
    }
    std::string blanks(length, ' ');
    ASSERT_EQ(golden().encode(blanks), merge_by_the_rule(golden().model(), blanks)) << length;
  }
}

TEST(Tokenizer,
     huge_words_are_encoded_in_near_linear_time) {  // quadratic time would run into the test's time limit
  for (const std::string part : {"a", "ab", "-=", "\xE4\xB8\xAD"}) {
    std::string word;
    while (word.size() < 1'000'000) word += part;
    EXPECT_EQ(golden().decode(golden().encode(word)), word);
  }
}

TEST(Tokenizer, documents_give_the_same_ids_for_any_number_of_threads) {
  std::string corpus = testing::read_file(testing::golden_path("corpus.txt")), large;
  for (int i = 0; i < 12; i++) large += corpus;  // is cut into stretches
  std::mt19937 random(5);
  std::vector<std::string> texts{"", large, "x", "", "\n\n"};
  for (int i = 0; i < 50; i++) texts.push_back(testing::random_text(random, 2000));
  texts.emplace_back();
  std::vector<std::string_view> documents(texts.begin(), texts.end());
  EncodeOptions options{.parse_special = true, .add_bos = true};
  std::vector<uint16_t> expected;
  std::vector<uint64_t> ends;
  for (const std::string& text : texts) {
    golden().encode_into(text, options, expected);
    ends.push_back(expected.size());
  }
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    auto encoded = golden().encode_documents<uint16_t>(documents, options, pool);
    EXPECT_EQ(encoded.ids, expected);
    EXPECT_EQ(encoded.doc_end, ends);
    auto wide = golden().encode_documents<uint32_t>(documents, options, pool);
    EXPECT_TRUE(std::equal(wide.ids.begin(), wide.ids.end(), expected.begin(), expected.end()));
  }
  ThreadPool pool(2);
  EXPECT_TRUE(golden().encode_documents<uint16_t>({}, options, pool).ids.empty());
}

TEST(Tokenizer, one_tokenizer_serves_several_threads) {
  std::string corpus = testing::read_file(testing::golden_path("corpus.txt"));
  Ids expected = golden().encode(corpus), first, second;
  std::thread other([&] { first = golden().encode(corpus); });
  second = golden().encode(corpus);
  other.join();
  EXPECT_EQ(first, expected);
  EXPECT_EQ(second, expected);
}

TEST(Tokenizer, invalid_utf8_is_refused_with_document_and_offset) {
  ThreadPool pool(2);
  std::vector<std::string_view> documents{"fine", "bad \xFF"};
  try {
    golden().encode_documents<uint16_t>(documents, {}, pool);
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::bad_input);
    EXPECT_NE(std::string(e.what()).find("document 1:4: byte 255"), std::string::npos) << e.what();
  }
  EXPECT_THROW(golden().encode("\x80"), Error);
}

TEST(Tokenizer, saved_file_is_the_loaded_one) {
  std::string path = ::testing::TempDir() + "tokenizer_test_saved.json";
  golden().save(path);
  EXPECT_EQ(testing::read_file(path), testing::read_file(testing::golden_path("tokenizer.json")));
  EXPECT_EQ(Tokenizer::load(path).fingerprint(), golden().fingerprint());
  EXPECT_EQ(golden().fingerprint().size(), 32u);
  EXPECT_EQ(Tokenizer::from_model(golden().model()).json(), golden().json());
  std::filesystem::remove(path);
  EXPECT_THROW(golden().save("/no/such/folder/tokenizer.json"), Error);
  EXPECT_THROW(Tokenizer::load("/no/such/file.json"), Error);
}

/// The golden file with a change.
template <class F>
std::string changed(F&& change) {
  static const json original = json::parse(golden().json());
  json copy = original;
  change(copy);
  return copy.dump();
}

TEST(Tokenizer, other_forms_of_the_same_file_give_the_same_ids) {
  std::string text = "It's a small 12 test,\n\n of the 'Devil's dictionary'  ";
  Ids expected = golden().encode(text);
  auto same = [&](const std::string& file) {
    EXPECT_EQ(Tokenizer::from_json(file, "test").encode(text), expected);
  };
  same(changed([](json& j) {  // merges as strings
    for (json& m : j["model"]["merges"]) m = m[0].get<std::string>() + " " + m[1].get<std::string>();
  }));
  same(changed([](json& j) {
    j["post_processor"] = {
        {"type", "Sequence"},
        {"processors", {{{"type", "ByteLevel"}, {"trim_offsets", false}}, j["post_processor"]}}};
  }));
  same(changed([](json& j) { j["post_processor"] = nullptr; }));
  same(changed([](json& j) {  // an earlier rank of the same pair does not count
    j["model"]["merges"].insert(j["model"]["merges"].begin(), j["model"]["merges"].back());
  }));
}

TEST(Tokenizer, ignore_merges_takes_whole_words_first) {
  std::string text = changed([](json& j) {
    j["model"]["vocab"]["zqzqj"] = 2048;  // no merge makes it
    j["model"]["ignore_merges"] = true;
  });
  EXPECT_EQ(Tokenizer::from_json(text, "test").encode("zqzqj"), Ids{2048});
  EXPECT_GT(golden().encode("zqzqj").size(), 1u);
}

TEST(Tokenizer, added_tokens_match_leftmost_longest) {
  std::string text = changed([](json& j) {
    auto add = [&](int id, const char* content, bool special, bool normalized) {
      j["added_tokens"].push_back({{"id", id},
                                   {"content", content},
                                   {"special", special},
                                   {"normalized", normalized},
                                   {"single_word", false},
                                   {"lstrip", false},
                                   {"rstrip", false}});
    };
    add(2048, "<|e", false, false);
    add(2049, "foo", false, true);
    add(2050, "foobar", false, true);
    add(2051, "o<|e", false, true);  // normalized tokens are looked for in what the others leave
  });
  Tokenizer tokenizer = Tokenizer::from_json(text, "test");
  EXPECT_EQ(tokenizer.encode("foobarfoo<|endoftext|>", {.parse_special = true}), (Ids{2050, 2049, 2}));
  Ids plain = tokenizer.encode("foo<|endoftext|>");
  EXPECT_EQ(plain[0], 2049u);
  EXPECT_EQ(plain[1], 2048u);
}

TEST(Tokenizer, added_tokens_take_the_blanks_beside_them) {
  std::string text = changed([](json& j) {
    j["added_tokens"][3]["lstrip"] = true;
    j["added_tokens"][2]["rstrip"] = true;
  });
  Tokenizer tokenizer = Tokenizer::from_json(text, "test");
  auto ids = [&](const char* s) { return tokenizer.encode(s, {.parse_special = true}); };
  EXPECT_EQ(ids("a \n\u3000<|unk|>a"), ids("a<|unk|>a"));
  EXPECT_NE(ids("a<|unk|> a"), ids("a<|unk|>a"));
  EXPECT_EQ(ids("<|endoftext|>  <|unk|>"), (Ids{2, 3}));
}

TEST(Tokenizer, what_is_not_supported_is_refused_by_name) {
  auto refuse = [](const std::string& text, const std::string& message) {
    try {
      Tokenizer::from_json(text, "file.json");
      ADD_FAILURE() << "accepted; expected: " << message;
    } catch (const Error& e) {
      EXPECT_EQ(e.exit(), Exit::bad_input);
      EXPECT_TRUE(std::string(e.what()).starts_with("file.json: ")) << e.what();
      EXPECT_NE(std::string(e.what()).find(message), std::string::npos) << e.what();
    }
  };
  const std::string& good = golden().json();
  refuse("", "not JSON");
  refuse("[]", "not a JSON object");
  refuse("{\"a\": 1, \"a\": 2}", "twice");
  refuse(good.substr(0, good.size() / 2), "not JSON");
  refuse(good + "x", "not JSON");
  refuse("{\"version\": \"\xFF\"}", "not JSON");
  refuse(std::string(100'000, '['), "nesting");
  refuse(std::string((64 << 20) + 1, ' '), "bytes");
  refuse(changed([](json& j) { j["version"] = "2.0"; }), "version");
  refuse(changed([](json& j) { j["extra"] = 1; }), "unknown key \"extra\"");
  refuse(changed([](json& j) { j["truncation"] = json::object(); }), "truncation");
  refuse(changed([](json& j) { j["normalizer"] = {{"type", "NFC"}}; }), "normalizer \"NFC\"");
  refuse(changed([](json& j) { j["decoder"] = {{"type", "WordPiece"}}; }), "decoder \"WordPiece\"");
  refuse(changed([](json& j) {
           j["post_processor"] = {{"type", "BertProcessing"}};
         }),
         "post_processor \"BertProcessing\"");
  refuse(changed([](json& j) { j["post_processor"]["single"].push_back(j["post_processor"]["single"][0]); }),
         "BOS $A");
  refuse(changed([](json& j) { j["post_processor"]["special_tokens"]["<|startoftext|>"]["ids"] = {9999}; }),
         "9999");
  refuse(changed([](json& j) { j["post_processor"]["special_tokens"] = json::object(); }), "<|startoftext|>");
  refuse(changed([](json& j) { j.erase("model"); }), "\"model\" is missing");
  refuse(changed([](json& j) { j["model"]["type"] = "Unigram"; }), "\"Unigram\"");
  refuse(changed([](json& j) { j["model"]["dropout"] = 0.1; }), "dropout");
  refuse(changed([](json& j) { j["model"]["byte_fallback"] = true; }), "byte_fallback");
  refuse(changed([](json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }), "end_of_word_suffix");
  refuse(changed([](json& j) { j["model"]["fuse_unk"] = 3, j["model"]["surprise"] = 3; }), "surprise");
  refuse(changed([](json& j) { j["model"]["vocab"].erase("A"); }), "byte 65");
  refuse(changed([](json& j) { j["model"]["vocab"]["new"] = 5000; }), "dense");
  refuse(changed([](json& j) { j["model"]["vocab"]["new"] = 7; }), "id 7");
  refuse(changed([](json& j) { j["model"]["vocab"]["new"] = -1; }), "-1");
  refuse(changed([](json& j) { j["model"]["vocab"]["new"] = 4'000'000'000; }), "4000000000");
  refuse(changed([](json& j) { j["model"]["vocab"]["new"] = "8"; }), "not an id");
  refuse(changed([](json& j) { j["model"]["merges"][5] = {"Q", "Qx"}; }), "merges[5]");
  refuse(changed([](json& j) { j["model"]["merges"][5] = {"Q", "Q"}; }), "\"QQ\" is not in model.vocab");
  refuse(changed([](json& j) { j["model"]["merges"][5] = "a b c"; }), "merges[5]");
  refuse(changed([](json& j) { j["model"]["merges"][5] = 3; }), "merges[5]");
  refuse(changed([](json& j) { j["added_tokens"][2]["single_word"] = true; }), "single_word");
  refuse(changed([](json& j) { j["added_tokens"][2]["id"] = 17; }), "must be 2");
  refuse(changed([](json& j) { j["added_tokens"][2]["content"] = ""; }), "empty");
  refuse(changed([](json& j) { j["added_tokens"].push_back(j["added_tokens"][0]); }), "listed twice");
  refuse(changed([](json& j) { j["added_tokens"][3]["content"] = "<|new|>"; }), "must be 2048");
  auto first = [](json& j) -> json& { return j["pre_tokenizer"]["pretokenizers"][0]; };
  refuse(changed([&](json& j) { first(j) = {{"type", "Digits"}}; }), "\"Digits\"");
  refuse(changed([&](json& j) { first(j)["behavior"] = "Removed"; }), "\"Removed\"");
  refuse(changed([&](json& j) { first(j)["invert"] = true; }), "invert");
  refuse(changed([&](json& j) { first(j)["pattern"] = {{"String", " "}}; }), "Regex");
  refuse(changed([&](json& j) { j["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = true; }),
         "more than one split");
  refuse(changed([&](json& j) { j["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true; }),
         "add_prefix_space");
  refuse(changed([&](json& j) { j["pre_tokenizer"] = first(j); }), "no ByteLevel");
  refuse(changed([&](json& j) { j["pre_tokenizer"] = nullptr; }), "pre_tokenizer");
}

TEST(Tokenizer, every_truncation_and_random_damage_is_an_error_or_a_tokenizer) {
  std::mt19937 random(9);
  std::string file = changed([](json& j) {  // small: 256 bytes, two merges
    json vocabulary;
    for (auto& [token, id] : j["model"]["vocab"].items())
      if (id.get<int>() < 262) vocabulary[token] = id;
    j["model"]["vocab"] = vocabulary;
    j["model"]["merges"] = json::array({j["model"]["merges"][0], j["model"]["merges"][1]});
  });
  ASSERT_EQ(Tokenizer::from_json(file, "small").vocab_size(), 262);
  for (int i = 0; i < 300; i++) {
    std::string damaged = file;
    if (i % 2)
      damaged.resize(random() % file.size());
    else
      damaged[random() % file.size()] = char(random());
    try {
      Tokenizer::from_json(damaged, "damaged").encode("some text 12");
    } catch (const Error& e) {
      EXPECT_EQ(e.exit(), Exit::bad_input);
    }
  }
}

}  // namespace
}  // namespace jambalaya
