#include "data/pretokenize.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "data/regex_split.h"
#include "data/unicode_tables.h"
#include "data/utf8.h"
#include "kernels/error.h"
#include "tests/support/text.h"

namespace jambalaya {
namespace {

const std::string kLlama3 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+";

/// All pieces, asked for `batch` at a time.
template <class Split>
std::vector<uint32_t> pieces(const Split& split, const std::string& text, size_t batch = 1000) {
  std::vector<uint32_t> all, some(batch);
  for (size_t at = 0, count; (count = split.split(text, at, some)) > 0;)
    for (size_t i = 0; i < count; i++) all.push_back(some[i]), at += some[i];
  return all;
}

TEST(Unicode, class_sizes_are_those_of_unicode_16) {
  size_t count[5] = {};
  for (uint32_t c = 0; c < 0x110000; c++) count[size_t(CharTable::get().of(c))]++;
  EXPECT_EQ(count[size_t(CharClass::letter)], 141028u);
  EXPECT_EQ(count[size_t(CharClass::number)], 1911u);
  EXPECT_EQ(count[size_t(CharClass::space)] + count[size_t(CharClass::newline)], 25u);
  EXPECT_EQ(CharTable::get().of(0x1C89), CharClass::letter);  // new in 16
  EXPECT_EQ(CharTable::get().of(0x10FFFF), CharClass::other);
}

TEST(Utf8, invalid_bytes_are_found_and_replaced_by_maximal_parts) {
  // The examples of the Unicode standard, table 3-8 and those before it.
  const std::pair<std::string, std::string> cases[] = {
      {"\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64", "a???b?c??d"},
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", "????????A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", "????????A"},
      {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", "?????A??B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", "????A"},
      {"x\xE2\x82", "x?"}};
  for (const auto& [bad, marks] : cases) {
    std::string expected;
    for (char c : marks) expected += c == '?' ? "\xEF\xBF\xBD" : std::string(1, c);
    EXPECT_EQ(replace_invalid_utf8(bad), expected);
    EXPECT_NE(find_invalid_utf8(bad), std::string::npos);
    EXPECT_EQ(find_invalid_utf8(expected), std::string::npos);
  }
  std::string late = std::string(100, 'a') + "\xC3\xA9" + std::string(70, 'b') + "\xFF" + "c";
  EXPECT_EQ(find_invalid_utf8(late), 172u);
  EXPECT_EQ(find_invalid_utf8(std::string("\xF4\x8F\xBF\xBF\x00\xEE\x80\x80", 8)), std::string::npos);
}

TEST(Pretokenize, pieces_are_those_of_the_golden) {
  std::istringstream lines(testing::read_file(testing::golden_path("pieces.jsonl")));
  std::map<std::string, Pretokenizer> splits{{"default", Pretokenizer(Pretokenizer::default_regex())},
                                             {"llama3", Pretokenizer(kLlama3)},
                                             {"gpt2", Pretokenizer(Pretokenizer::gpt2_regex())}};
  size_t cases = 0;
  for (std::string line; std::getline(lines, line); cases++) {
    auto golden = nlohmann::json::parse(line);
    const Pretokenizer& split = splits.at(golden[0].get<std::string>());
    ASSERT_TRUE(split.exact());
    auto text = golden[1].get<std::string>();
    ASSERT_EQ(pieces(split, text), golden[2].get<std::vector<uint32_t>>()) << line;
    ASSERT_EQ(pieces(split, text, 1), pieces(split, text)) << line;
  }
  EXPECT_EQ(cases, 936u);
}

TEST(Pretokenize, scanner_and_regex_agree_on_characters_older_than_both_tables) {
  std::mt19937 random(3);
  for (const std::string& regex : {Pretokenizer::default_regex(), kLlama3, Pretokenizer::gpt2_regex()}) {
    Pretokenizer scanner(regex);
    RegexSplit fallback(regex);
    for (int i = 0; i < 300; i++) {
      std::string text, drawn = testing::random_text(random, 60);
      auto p = reinterpret_cast<const uint8_t*>(drawn.data());
      for (int n; *p; p += n)
        if (uint32_t c = decode_utf8(p, n); c < 0x1C80) append_utf8(text, c);
      ASSERT_EQ(pieces(scanner, text), pieces(fallback, text)) << regex << "\n" << text;
    }
  }
}

TEST(Pretokenize, spellings_of_one_rule_are_recognised) {
  SplitRule rule;
  const char* words = "[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++";
  const char* tail = "| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s*[\\r\\n]|\\s+(?!\\S)|\\s";
  ASSERT_TRUE(parse_split_rule(cat("'(?i:[sdmt]|ll|ve|re)|", words, "|\\p{N}{1,3}", tail), rule));
  EXPECT_EQ(rule.max_digits, 3);
  EXPECT_TRUE(rule.contractions_ignore_case);
  ASSERT_TRUE(parse_split_rule(
      "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s", rule));
  EXPECT_EQ(rule.family, SplitRule::Family::gpt2);
  EXPECT_FALSE(rule.contractions_ignore_case);
  // These split differently, so they must not be taken for a known rule.
  for (std::string other :
       {cat("(?i:'s|'t|'re|'ve|'m|'ll)|", words, "|\\p{N}", tail), cat(words, "|\\p{N}", tail),
        cat("(?i:'s|'t|'re|'ve|'m|'ll|'d)|", words, "|\\p{N}{1,3}+", tail),
        cat("(?i:'s|'t|'re|'ve|'m|'ll|'d)|", words, "|\\p{N}{2,3}", tail),
        cat("(?i:'s|'t|'re|'ve|'m|'ll|'d)|", words, "|\\p{N}", tail, "|x"), std::string("\\w+"),
        std::string("'s|'t|'re|'ve|'m|'ll|'d|\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+")})
    EXPECT_FALSE(parse_split_rule(other, rule)) << other;
}

TEST(Pretokenize, unknown_patterns_go_through_the_regex_engine) {
  Pretokenizer split("\\d+");
  EXPECT_FALSE(split.exact());
  EXPECT_EQ(pieces(split, "ab12c3"), (std::vector<uint32_t>{2, 2, 1, 1}));
  EXPECT_EQ(pieces(split, "ab12c3", 1), (std::vector<uint32_t>{2, 2, 1, 1}));
  EXPECT_EQ(pieces(split, "x"), (std::vector<uint32_t>{1}));
  EXPECT_EQ(pieces(split, ""), (std::vector<uint32_t>{}));
  // An empty match is no piece, but it cuts.
  EXPECT_EQ(pieces(Pretokenizer("x*"), "a\xC3\xA9xxb"), (std::vector<uint32_t>{1, 2, 2, 1}));
  try {
    Pretokenizer broken("(unclosed");
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::bad_input);
    EXPECT_NE(std::string(e.what()).find("(unclosed"), std::string::npos);
  }
}

}  // namespace
}  // namespace jambalaya
