#include "data/dataset.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "data/file_io.h"
#include "kernels/error.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/token_store.h"

namespace jambalaya {
namespace {

using test::byte_tokenizer;
using test::encode_bytes;
using test::random_texts;
using test::read_file;
using test::TemporaryFolder;
using test::write_json_lines;

std::map<std::string, std::string> contents(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    files[entry.path().filename().string()] = read_file(entry.path().string());
  return files;
}

std::string text_of(const std::vector<int32_t>& ids) {
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(ids.back(), 2);
  std::string text;
  for (size_t i = 1; i + 1 < ids.size(); i++) text += char(ids[i] - 4);
  return text;
}

std::vector<std::string> texts_of(const TokenSplit& split) {
  std::vector<std::string> texts;
  for (int64_t d = 0; d < split.documents(); d++) texts.push_back(text_of(split.document(d)));
  return texts;
}

TEST(dataset, every_document_is_stored_once_in_its_split) {
  TemporaryFolder folder;
  const std::vector<std::string> texts = random_texts(3000, 300, 1);
  const std::string file = write_json_lines(folder, "a.jsonl", texts);
  const Manifest made = encode_dataset({file}, folder.path("store"), byte_tokenizer(), encode_bytes,
                                       {.held_out_share = 0.1, .shard_bytes = 100000}, 2);
  const Dataset dataset(folder.path("store"));
  dataset.verify();
  EXPECT_EQ(dataset.tokenizer_json(), byte_tokenizer().json);
  std::vector<std::string> train, held_out;
  for (const std::string& text : texts)
    (is_held_out(xxh3_64(text), 0.1, 0) ? held_out : train).push_back(text);
  EXPECT_EQ(texts_of(dataset.train()), train);
  EXPECT_EQ(texts_of(dataset.held_out()), held_out);
  EXPECT_NEAR(double(held_out.size()), 300, 60);
  EXPECT_GT(made.shards.size(), 5u);
  for (const ShardRecord& shard : made.shards) EXPECT_LE(shard.tokens * 2, 100000u) << shard.name;
  size_t bytes = 0;
  for (const std::string& text : texts) bytes += text.size();
  EXPECT_EQ(made.totals("train").raw_bytes + made.totals("held-out").raw_bytes, bytes);
  EXPECT_EQ(dataset.train().totals().tokens + dataset.held_out().totals().tokens, bytes + 2 * texts.size());
  EXPECT_EQ(made.sources[0].raw_bytes, bytes);
  EXPECT_EQ(dataset.train().document_source(5), file);
  EXPECT_EQ(dataset.train().document_bytes(5), train[5].size());
}

TEST(dataset, the_same_bytes_for_any_number_of_threads) {
  TemporaryFolder folder;
  std::vector<std::string> files;
  for (unsigned i = 0; i < 3; i++)
    files.push_back(
        write_json_lines(folder, "f" + std::to_string(i) + ".jsonl", random_texts(4000, 2000, i)));
  std::vector<std::map<std::string, std::string>> stores;
  for (int threads : {1, 2, 3}) {
    const std::string store = folder.path("store" + std::to_string(threads));
    encode_dataset(files, store, byte_tokenizer(), encode_bytes, {.shard_bytes = 5 << 20}, threads);
    stores.push_back(contents(store));
  }
  EXPECT_GT(stores[0].size(), 3u);
  EXPECT_EQ(stores[0], stores[1]);
  EXPECT_EQ(stores[0], stores[2]);
}

TEST(dataset, more_files_never_move_a_document_to_the_other_split) {
  TemporaryFolder folder;
  const std::string a = write_json_lines(folder, "a.jsonl", random_texts(500, 60, 1));
  const std::string b = write_json_lines(folder, "b.jsonl", random_texts(500, 60, 2));
  const StoreOptions options{.held_out_share = 0.2};
  encode_dataset({a}, folder.path("one"), byte_tokenizer(), encode_bytes, options, 1);
  encode_dataset({b, a}, folder.path("two"), byte_tokenizer(), encode_bytes, options, 1);
  const Dataset one(folder.path("one")), two(folder.path("two"));
  const std::vector<std::string> now = texts_of(two.held_out()), before = texts_of(one.held_out());
  ASSERT_GT(before.size(), 50u);
  EXPECT_TRUE(std::equal(before.rbegin(), before.rend(), now.rbegin()));
  EXPECT_EQ(two.held_out().totals().documents + two.train().totals().documents, 1000u);
  encode_dataset({a}, folder.path("other"), byte_tokenizer(), encode_bytes,
                 {.held_out_share = 0.2, .split_seed = 1}, 1);
  EXPECT_NE(texts_of(Dataset(folder.path("other")).held_out()), before);
}

TEST(dataset, a_manifest_that_was_changed_is_refused) {
  TemporaryFolder folder;
  const std::string file = write_json_lines(folder, "a.jsonl", random_texts(30, 50, 1));
  encode_dataset({file}, folder.path("store"), byte_tokenizer(), encode_bytes, {}, 1);
  const std::string good = read_file(folder.path("store/manifest.json"));
  EXPECT_EQ(to_json(parse_manifest(good, "m")), good);
  std::mt19937 random(1);
  for (int i = 0; i < 1000; i++) {
    std::string bad = good;
    const size_t at = random() % bad.size();
    bad[at] = char(bad[at] ^ (1 << random() % 8));
    EXPECT_THROW(parse_manifest(bad, "m"), Error) << at;
  }
  for (size_t keep = 0; keep < good.size(); keep++)
    EXPECT_THROW(parse_manifest(good.substr(0, keep), "m"), Error) << keep;
}

TEST(dataset, damaged_and_swapped_shards_are_named) {
  TemporaryFolder folder;
  const std::string file = write_json_lines(folder, "a.jsonl", random_texts(400, 300, 1));
  const Manifest made =
      encode_dataset({file}, folder.path("store"), byte_tokenizer(), encode_bytes, {.shard_bytes = 40000}, 1);
  ASSERT_GT(made.shards.size(), 2u);
  const std::string first = folder.path("store/" + made.shards[0].name),
                    second = folder.path("store/" + made.shards[1].name);
  auto expect_named = [&](const std::string& path) {
    try {
      Dataset(folder.path("store")).verify();
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.exit(), Exit::bad_input);
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    }
  };
  const std::string good = read_file(first), other = read_file(second);
  folder.write("store/" + made.shards[0].name, other);
  expect_named(first);
  std::filesystem::remove(first);
  expect_named(first);
  std::string bad = good;
  bad[9000] ^= 4;
  folder.write("store/" + made.shards[0].name, bad);
  expect_named(first);
  folder.write("store/" + made.shards[0].name, good);
  EXPECT_NO_THROW(Dataset(folder.path("store")).verify());
  std::filesystem::remove(folder.path("store/manifest.json"));
  expect_named(folder.path("store"));
}

TEST(dataset, an_error_leaves_no_manifest_and_is_the_first_of_the_text) {
  TemporaryFolder folder;
  const std::string good = write_json_lines(folder, "a.jsonl", random_texts(5000, 2000, 1));
  const std::string bad = folder.write("b.jsonl", "{\"text\": \"x\"}\nnonsense\n");
  for (int threads : {1, 3}) {
    try {
      encode_dataset({good, bad}, folder.path("store"), byte_tokenizer(), encode_bytes, {}, threads);
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("b.jsonl:2:"), std::string::npos) << error.what();
    }
    EXPECT_THROW(Dataset(folder.path("store")), Error);
  }
}

TEST(dataset, a_store_is_overwritten_only_on_demand) {
  TemporaryFolder folder;
  const std::string file = write_json_lines(folder, "a.jsonl", random_texts(20, 50, 1));
  encode_dataset({file}, folder.path("store"), byte_tokenizer(), encode_bytes, {}, 1);
  EXPECT_THROW(encode_dataset({file}, folder.path("store"), byte_tokenizer(), encode_bytes, {}, 1), Error);
  encode_dataset({file}, folder.path("store"), byte_tokenizer(), encode_bytes, {.overwrite = true}, 1);
  EXPECT_NO_THROW(Dataset(folder.path("store")).verify());
}

TEST(dataset, wrong_options_are_refused) {
  TemporaryFolder folder;
  const std::string file = write_json_lines(folder, "a.jsonl", random_texts(20, 50, 1));
  auto refused = [&](const std::vector<std::string>& files, const StoreOptions& options) {
    EXPECT_THROW(encode_dataset(files, folder.path("store"), byte_tokenizer(), encode_bytes, options, 1),
                 Error);
  };
  refused({}, {});
  refused({folder.path("none.txt")}, {});
  refused({file}, {.held_out_share = 1.5});
  refused({file}, {.shard_bytes = 0});
  refused({folder.write("empty.txt", "\n\n")}, {});
}

TEST(dataset, summary_counts_what_is_there) {
  TemporaryFolder folder;
  const std::string file = write_json_lines(folder, "a.jsonl", {"abcd", "ab", "abcdefghijkl"});
  encode_dataset({file}, folder.path("store"), byte_tokenizer(), encode_bytes, {.held_out_share = 0}, 1);
  const Dataset dataset(folder.path("store"));
  const SplitSummary summary = summarize(dataset.train());
  EXPECT_EQ(summary.totals.documents, 3u);
  EXPECT_EQ(summary.totals.tokens, 24u);
  EXPECT_EQ(summary.bytes_per_token, 1.0);
  EXPECT_EQ(summary.shortest, 4u);
  EXPECT_EQ(summary.median, 6u);
  EXPECT_EQ(summary.longest, 14u);
  EXPECT_EQ(summary.histogram[2], 2u);
  EXPECT_EQ(summary.histogram[3], 1u);
  EXPECT_EQ(summarize(dataset.held_out()).totals.documents, 0u);
}

}  // namespace
}  // namespace jambalaya
