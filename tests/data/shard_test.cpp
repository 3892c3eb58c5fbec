#include "data/shard.h"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <random>

#include "data/crc32c.h"
#include "data/seal.h"
#include "kernels/error.h"
#include "tests/support/temporary_folder.h"

namespace jambalaya {
namespace {

using test::read_file;
using test::TemporaryFolder;

struct Documents {
  std::vector<std::vector<int32_t>> ids;
  ShardRecord record;
};

TokenizerRecord tokenizer(int64_t vocab_size) {
  return {.json = "{\"a tokenizer\": 1}",
          .fingerprint = "f00d",
          .vocab_size = vocab_size,
          .bos = 1,
          .eos = 2,
          .pad = 0};
}

/// Writes `count` random documents; ids reach the last of the vocabulary.
Documents write_shard(const std::string& folder, const std::string& name, int64_t vocab_size, int count,
                      int longest) {
  const TokenizerRecord record = tokenizer(vocab_size);
  ShardWriter writer(record, "train", 9);
  std::mt19937 random{uint32_t(count)};
  Documents documents;
  for (int d = 0; d < count; d++) {
    std::vector<int32_t> ids(random() % uint32_t(longest));
    for (int32_t& id : ids) id = int32_t(random() % uint32_t(vocab_size));
    if (d == 0) ids.push_back(int32_t(vocab_size - 1));
    writer.add(ids, 10 + uint64_t(d), 1000 + uint64_t(d), d < count / 2 ? "first.txt" : "second.txt");
    documents.ids.push_back(std::move(ids));
  }
  documents.record = writer.finish(folder, name);
  return documents;
}

void expect_refused(const std::string& path, const ShardRecord* expected, const std::string& why,
                    const std::string& detail) {
  try {
    Shard shard(path, expected);
    shard.verify();
    ADD_FAILURE() << "not noticed: " << detail;
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::bad_input) << error.what();
    EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(why), std::string::npos) << error.what();
  }
}

TEST(crc32c, agrees_with_the_published_vectors_and_with_the_table) {
  EXPECT_EQ(crc32c("123456789", 9), 0xE3069283u);
  EXPECT_EQ(crc32c_by_table("123456789", 9), 0xE3069283u);
  const std::string zeros(32, '\0'), ones(32, '\xff');  // RFC 3720, B.4
  EXPECT_EQ(crc32c(zeros.data(), 32), 0x8A9136AAu);
  EXPECT_EQ(crc32c(ones.data(), 32), 0x62A8AB43u);
  std::mt19937 random(1);
  std::string bytes(1000, '\0');
  for (char& c : bytes) c = char(random());
  for (size_t n = 0; n < 100; n++) {
    const size_t from = random() % 100, cut = random() % (n + 1);
    EXPECT_EQ(crc32c(bytes.data() + from, n), crc32c_by_table(bytes.data() + from, n));
    EXPECT_EQ(crc32c(bytes.data() + from + cut, n - cut, crc32c(bytes.data() + from, cut)),
              crc32c(bytes.data() + from, n));
  }
}

class round_trip : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(vocabularies, round_trip, testing::Values(4, 300, 65536, 65537, 1 << 20));

TEST_P(round_trip, documents_come_back_as_bos_text_eos) {
  TemporaryFolder folder;
  const Documents written = write_shard(folder.path(), "a.tok.h5", GetParam(), 300, 8000);
  const Shard shard(folder.path("a.tok.h5"), &written.record);
  shard.verify();
  ASSERT_EQ(shard.documents(), 300u);
  EXPECT_EQ(shard.info().vocab_size, uint64_t(GetParam()));
  EXPECT_EQ(shard.info().split_seed, 9u);
  EXPECT_EQ(shard.tokenizer_json(), tokenizer(4).json);
  for (uint64_t d = 0; d < 300; d++) {
    std::vector<int32_t> ids(shard.document_end(d) - shard.document_begin(d)), expected{1};
    shard.read(shard.document_begin(d), ids.size(), ids.data());
    expected.insert(expected.end(), written.ids[d].begin(), written.ids[d].end());
    expected.push_back(2);
    ASSERT_EQ(ids, expected);
    EXPECT_EQ(shard.document_bytes(d), 10 + d);
    EXPECT_EQ(shard.document_hash(d), 1000 + d);
    EXPECT_EQ(shard.document_source(d), d < 150 ? "first.txt" : "second.txt");
  }
}

TEST(shard, the_same_documents_give_the_same_bytes) {
  TemporaryFolder one, two;
  write_shard(one.path(), "a.tok.h5", 300, 50, 500);
  write_shard(two.path(), "a.tok.h5", 300, 50, 500);
  EXPECT_EQ(read_file(one.path("a.tok.h5")), read_file(two.path("a.tok.h5")));
}

TEST(shard, nothing_but_the_finished_file_is_left) {
  TemporaryFolder folder;
  write_shard(folder.path(), "a.tok.h5", 300, 5, 50);
  for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
    EXPECT_EQ(entry.path().filename(), "a.tok.h5");
}

TEST(shard, a_disk_that_refuses_is_an_io_error_and_leaves_nothing) {
  TemporaryFolder folder;
  try {
    write_shard(folder.path("missing"), "a.tok.h5", 300, 5, 50);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::io);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(shard, every_flipped_bit_is_noticed) {
  TemporaryFolder folder;
  const Documents written = write_shard(folder.path(), "a.tok.h5", 300, 40, 2000);
  const std::string good = read_file(folder.path("a.tok.h5"));
  std::mt19937_64 random(5);
  const std::string path = folder.write("bad.tok.h5", good);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  auto put = [&](size_t byte, char value) { file.seekp(std::streamoff(byte)).put(value).flush(); };
  for (int i = 0; i < 1000; i++) {
    // A third each: anywhere, in the seal and the first HDF5 structures, at the end (index).
    const size_t span = i % 3 == 0 ? good.size() : 8192, from = i % 3 == 2 ? good.size() - span : 0;
    const size_t byte = from + random() % span, bit = random() % 8;
    put(byte, char(good[byte] ^ (1 << bit)));
    const std::string detail = "bit " + std::to_string(bit) + " of byte " + std::to_string(byte);
    expect_refused(path, i % 2 ? &written.record : nullptr, "", detail);
    put(byte, good[byte]);
  }
  EXPECT_NO_THROW(Shard(path, nullptr).verify());
}

TEST(shard, truncation_is_noticed_at_opening) {
  TemporaryFolder folder;
  write_shard(folder.path(), "a.tok.h5", 300, 40, 2000);
  const std::string good = read_file(folder.path("a.tok.h5"));
  for (size_t keep : {size_t(0), size_t(1), size_t(8), size_t(4095), size_t(4096), size_t(5000),
                      good.size() / 2, good.size() - 1})
    EXPECT_THROW(Shard(folder.write("bad.tok.h5", good.substr(0, keep))), Error) << keep;
  EXPECT_THROW(Shard(folder.write("bad.tok.h5", good + "x")), Error);
}

TEST(shard, a_damaged_block_is_named_when_touched_and_others_still_serve) {
  TemporaryFolder folder;
  write_shard(folder.path(), "a.tok.h5", 300, 900, 4000);
  std::string bytes = read_file(folder.path("a.tok.h5"));
  const uint64_t per_block = Shard::block_bytes / 2;
  const uint64_t offset = Seal::check("a", bytes).tokens_offset;
  EXPECT_EQ(offset % 4096, 0u);
  bytes[offset + Shard::block_bytes + 77] ^= 1;  // in block 1
  const Shard shard(folder.write("bad.tok.h5", bytes));
  ASSERT_GT(shard.tokens(), 3 * per_block);
  std::vector<int32_t> ids(10);
  shard.read(per_block - 10, 10, ids.data());
  shard.read(2 * per_block, 10, ids.data());
  try {
    shard.read(per_block - 5, 10, ids.data());
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("bad.tok.h5: block 1 of /tokens"), std::string::npos)
        << error.what();
  }
}

TEST(shard, other_files_are_refused_by_name) {
  TemporaryFolder folder;
  const Documents a = write_shard(folder.path(), "a.tok.h5", 300, 40, 200);
  write_shard(folder.path(), "b.tok.h5", 300, 41, 200);
  expect_refused(folder.path("none.tok.h5"), nullptr, "cannot be opened", "missing");
  expect_refused(folder.write("text.tok.h5", std::string(10000, 'x')), nullptr, "not a token shard", "text");
  expect_refused(folder.path("b.tok.h5"), &a.record, "manifest", "another shard");
  std::string newer = read_file(folder.path("a.tok.h5"));
  newer.replace(newer.find("tokens 1.0"), 10, "tokens 2.0");
  expect_refused(folder.write("newer.tok.h5", newer), nullptr, "version 2.0", "version");
  const std::string plain = folder.path("plain.h5");
  H5Fclose(H5Fcreate(plain.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
  expect_refused(plain, nullptr, "seal", "plain HDF5");
}

TEST(shard, a_resealed_shard_with_wrong_contents_is_refused) {
  TemporaryFolder folder;
  const Documents written = write_shard(folder.path(), "a.tok.h5", 300, 40, 200);
  const std::string good = read_file(folder.path("a.tok.h5"));
  const Seal seal = Seal::check("a", good);
  auto reseal = [&](std::string bytes) {
    const Seal made = Seal::of(bytes, seal.tokens_offset, seal.tokens_bytes);
    return folder.write("forged.tok.h5", bytes.replace(0, Seal::bytes, made.render()));
  };
  std::string bytes = good;
  bytes[seal.tokens_offset + 5] = '\x7f';  // the seal is right, the CRC of the block is not
  expect_refused(reseal(bytes), nullptr, "block 0", "id");
  EXPECT_THROW(Shard(reseal(good.substr(0, good.size() - 1))),
               Error);  // HDF5's own end of file no longer fits
}

TEST(shard, ids_outside_the_vocabulary_are_not_written) {
  const TokenizerRecord record = tokenizer(300);
  ShardWriter writer(record, "train", 0);
  EXPECT_THROW(writer.add(std::vector<int32_t>{5, 300}, 1, 1, "a"), Error);
  EXPECT_THROW(writer.add(std::vector<int32_t>{-1}, 1, 1, "a"), Error);
}

}  // namespace
}  // namespace jambalaya
