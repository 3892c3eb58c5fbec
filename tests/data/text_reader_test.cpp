#include "data/text_reader.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <random>
#include <vector>

#include "kernels/error.h"
#include "tests/support/temporary_folder.h"

namespace jambalaya {
namespace {

using test::TemporaryFolder;
using Texts = std::vector<std::string>;

Texts read_all(const std::string& path, const TextOptions& options = {}) {
  TextReader reader(path, options);
  Texts texts;
  for (std::string text; reader.next(text);) texts.push_back(text);
  return texts;
}

/// The message of the Error that reading throws; its exit code must be `exit`.
std::string refusal(const std::string& path, const TextOptions& options = {}, Exit exit = Exit::bad_input) {
  try {
    read_all(path, options);
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), exit) << error.what();
    return error.what();
  }
  ADD_FAILURE() << path << " was read";
  return "";
}

std::string gzip(std::string_view text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string packed(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = uInt(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = uInt(packed.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

std::string zstd(std::string_view text) {
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 3));
  return packed;
}

/// Text of many lines with characters of one to four bytes: block borders fall inside characters.
std::string long_text(size_t bytes) {
  static const Texts words{"plain", "naïve", "Ελλάδα", "日本語", "🎷", "\n", " "};
  std::mt19937 random(7);
  std::string text;
  while (text.size() < bytes) text += words[random() % words.size()];
  return text;
}

TEST(text_reader, one_text_file_is_one_document) {
  TemporaryFolder folder;
  const std::string text = "one\n\n\ntwo\n";
  EXPECT_EQ(read_all(folder.write("a.txt", text)), Texts{text});
  EXPECT_EQ(read_all(folder.write("b.txt", "\xEF\xBB\xBFone")), Texts{"one"});
  EXPECT_EQ(read_all(folder.write("c.txt", "")), Texts{});
  EXPECT_EQ(read_all(folder.write("d.txt", " \n\n")), Texts{});
  EXPECT_EQ(read_all(folder.write("e.md", "é")), Texts{"é"});
}

TEST(text_reader, blank_lines_separate_documents_and_belong_to_none) {
  TemporaryFolder folder;
  TextOptions options{.split_on = "blank-lines"};
  EXPECT_EQ(read_all(folder.write("a.txt", "one\nmore\n\n \t\ntwo\r\n\r\nthree\n"), options),
            (Texts{"one\nmore", "two", "three\n"}));
  EXPECT_EQ(read_all(folder.write("b.txt", "\n\n\n"), options), Texts{});
}

TEST(text_reader, streamed_splitting_equals_splitting_at_once) {
  TemporaryFolder folder;
  std::mt19937 random(3);
  std::string text;
  Texts expected;
  for (int i = 0; i < 3000; i++) {
    std::string document("%");
    document.append(long_text(1 + random() % 1500)).append("x");
    for (size_t at; (at = document.find("\n\n")) != std::string::npos;) document.erase(at, 1);
    expected.push_back(document);
    text += document + std::string(2 + random() % 4, '\n');
  }
  const std::string path = folder.write("a.txt", text);
  EXPECT_EQ(read_all(path, {.split_on = "blank-lines"}), expected);
  EXPECT_EQ(read_all(path, {.split_on = "\\n{2,}+"}), expected);
  EXPECT_EQ(read_all(path, {.split_on = "(?<=x)\\n\\n+(?=%|\\z)"}), expected);
}

TEST(text_reader, regular_expression_separates) {
  TemporaryFolder folder;
  const std::string path = folder.write("a.txt", "a\n---\nb\n-----\nc");
  EXPECT_EQ(read_all(path, {.split_on = "^---+\\n"}), (Texts{"a\n", "b\n", "c"}));
  EXPECT_NE(refusal(path, {.split_on = "(("}, Exit::usage).find("split-on"), std::string::npos);
}

TEST(text_reader, json_lines_give_their_field) {
  TemporaryFolder folder;
  const std::string path = folder.write(
      "a.jsonl", "{\"text\": \"one\\nline \\u00e9\", \"body\": \"x\"}\n\n{\"text\":\"two\",\"body\":\"y\"}");
  EXPECT_EQ(read_all(path), (Texts{"one\nline é", "two"}));
  EXPECT_EQ(read_all(path, {.field = "body"}), (Texts{"x", "y"}));
  EXPECT_NE(refusal(path, {.field = "none"}).find("a.jsonl:1: no field 'none'"), std::string::npos);
}

TEST(text_reader, bad_json_is_named_by_line) {
  TemporaryFolder folder;
  const std::string good = "{\"text\":\"a\"}\n";
  for (const char* bad : {"{\"text\":", "[1]", "\"a\"", "{\"text\": 3}", "{\"text\":\"\\ud800\"}", "{} x"}) {
    const std::string message = refusal(folder.write("a.jsonl", good + "\n" + good + bad + "\n" + good));
    EXPECT_NE(message.find("a.jsonl:4:"), std::string::npos) << message;
  }
}

TEST(text_reader, packed_files_are_known_by_their_first_bytes) {
  TemporaryFolder folder;
  const std::string text = long_text(900000), more = "the second member\n";
  EXPECT_EQ(read_all(folder.write("a.txt.gz", gzip(text))), Texts{text});
  EXPECT_EQ(read_all(folder.write("a.txt.zst", zstd(text))), Texts{text});
  EXPECT_EQ(read_all(folder.write("misnamed.txt", gzip(text) + gzip(more))), Texts{text + more});
  EXPECT_EQ(read_all(folder.write("misnamed2.txt", zstd(text) + zstd(more))), Texts{text + more});
  EXPECT_EQ(read_all(folder.write("a.jsonl.gz", gzip("{\"text\":\"a\"}\n"))), Texts{"a"});
  EXPECT_EQ(read_all(folder.write("a.jsonl.zst", zstd("{\"text\":\"a\"}\n"))), Texts{"a"});
}

TEST(text_reader, truncated_packed_files_are_refused) {
  TemporaryFolder folder;
  const std::string text = long_text(20000);
  for (const std::string& name : {std::string("a.txt.gz"), std::string("a.txt.zst")}) {
    const std::string packed = name.ends_with("gz") ? gzip(text) : zstd(text);
    for (size_t keep = 0; keep < packed.size(); keep += keep < 20 ? 1 : 97)
      EXPECT_NE(refusal(folder.write(name, packed.substr(0, keep))).find(name), std::string::npos) << keep;
    EXPECT_NE(refusal(folder.write(name, packed + "junk")).find(name), std::string::npos);
  }
}

TEST(text_reader, invalid_utf8_is_refused_with_its_place) {
  TemporaryFolder folder;
  const std::string before = long_text(300000) + "\n";  // beyond one block
  const int64_t line = 1 + std::count(before.begin(), before.end(), '\n');
  for (const char* bad : {"\xff", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\x80", "\xe2\x82"}) {
    const std::string message = refusal(folder.write("a.txt", before + "ab" + bad + " rest"));
    EXPECT_NE(message.find("a.txt:" + std::to_string(line) + ": byte " + std::to_string(before.size() + 2)),
              std::string::npos)
        << message;
  }
  refusal(folder.write("a.txt", "cut at the end \xe2\x82"));
}

TEST(text_reader, invalid_utf8_is_replaced_on_demand) {
  TemporaryFolder folder;
  const TextOptions options{.invalid_utf8 = InvalidUtf8::replace};
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(read_all(folder.write("a.txt", "a\xff\xe2\x82z\xc0\xaf\xf0\x9f"), options),
            Texts{std::string("a").append(r + r).append("z").append(r + r + r)});
  const std::string text = long_text(700000);
  EXPECT_EQ(read_all(folder.write("b.txt", text + "\xff" + text), options), Texts{text + r + text});
}

TEST(text_reader, missing_files_and_folders_are_named) {
  TemporaryFolder folder;
  EXPECT_NE(refusal(folder.path("none.txt")).find("none.txt"), std::string::npos);
  EXPECT_NE(refusal(folder.path()).find("folder"), std::string::npos);
}

}  // namespace
}  // namespace jambalaya
