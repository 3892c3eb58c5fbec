// One shard of a token store: a .tok.h5 file. Plain HDF5 for any reader, and sealed: its first 4 KiB (HDF5's
// user block, which other readers skip) hold sizes and hashes, so that a damaged file is refused before HDF5
// parses it.
//
//   /tokens        u16 (u32 when the vocabulary needs it) [tokens], contiguous, 4 KiB aligned
//   /doc_end       u64 [documents]  exclusive ends in /tokens; a document begins where the one before it ends
//   /doc_bytes     u64 [documents]  UTF-8 bytes of its text
//   /doc_hash      u64 [documents]  XXH3-64 of its text
//   /doc_source    u32 [documents]  index into /sources
//   /sources       u8  names of the source files, each followed by a zero byte
//   /block_crc32c  u32 one for every MiB of /tokens
//   /tokenizer_json u8 the whole file, so that a shard decodes alone
// and attributes of the root (ShardInfo). A document is stored as bos + text + eos. There is no time stamp:
// the same input gives the same bytes.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/file_io.h"

namespace jambalaya {

/// What the store keeps of the tokenizer.
struct TokenizerRecord {
  std::string json;         ///< tokenizer.json, byte for byte
  std::string fingerprint;  ///< of that text
  int64_t vocab_size = 0;   ///< ids are in [0, vocab_size)
  int32_t bos = 0, eos = 0, pad = 0;
};

/// The root's attributes.
struct ShardInfo {
  std::string split;  ///< "train" or "held-out"
  uint64_t split_seed = 0;
  uint64_t tokens = 0, documents = 0, raw_bytes = 0;
  uint64_t vocab_size = 0;
  int64_t bos = 0, eos = 0, pad = 0;
  std::string tokenizer_fingerprint;
};

/// A finished file, as the manifest lists it.
struct ShardRecord {
  std::string name;  ///< of the file, without its folder
  std::string split;
  uint64_t tokens = 0, documents = 0, raw_bytes = 0;
  uint64_t file_bytes = 0;
  std::string hash;  ///< XXH3-128 of everything after the seal
};

/// Gathers documents in memory and writes them as one file.
class ShardWriter {
 public:
  ShardWriter(const TokenizerRecord& tokenizer, std::string split, uint64_t split_seed);

  /// Appends bos + ids + eos. Throws Error(bad_input) when an id is outside the vocabulary.
  void add(std::span<const int32_t> ids, uint64_t raw_bytes, uint64_t hash, const std::string& source);
  /// Bytes of tokens and index so far.
  uint64_t bytes() const { return tokens_.size() + documents() * 28; }
  uint64_t documents() const { return doc_end_.size(); }
  /// Writes `folder`/`name` (temporary name, fsync, rename, fsync of the folder) and empties the writer.
  /// Error(io) when the disk refuses; then nothing is left behind.
  ShardRecord finish(const std::string& folder, const std::string& name);

 private:
  void write_hdf5(const std::string& path) const;
  ShardInfo info() const;

  const TokenizerRecord& tokenizer_;
  std::string split_;
  uint64_t split_seed_;
  size_t width_;                       // bytes of a token
  std::vector<unsigned char> tokens_;  // as they will lie in the file
  std::vector<uint64_t> doc_end_, doc_bytes_, doc_hash_;
  std::vector<uint32_t> doc_source_;
  std::string sources_, last_source_;
  uint32_t source_count_ = 0;
  uint64_t raw_bytes_ = 0;
};

/// An open shard: mapped, safe to read from several threads. A block of tokens is checked (CRC, ids within
/// the vocabulary) when it is first touched; everything else when the shard is opened.
class Shard {
 public:
  static constexpr uint64_t block_bytes = 1 << 20;

  /// Throws Error(bad_input) naming the file for whatever is missing, truncated, damaged, of another version,
  /// or not what `expected` (may be null) says.
  explicit Shard(const std::string& path, const ShardRecord* expected = nullptr);

  const std::string& path() const { return path_; }
  const ShardInfo& info() const { return info_; }
  const std::string& tokenizer_json() const { return tokenizer_json_; }
  /// XXH3-128 of everything after the seal.
  const std::string& content_hash() const { return file_hash_; }
  uint64_t tokens() const { return info_.tokens; }
  uint64_t documents() const { return info_.documents; }
  uint64_t document_begin(uint64_t d) const { return d == 0 ? 0 : doc_end_[d - 1]; }
  uint64_t document_end(uint64_t d) const { return doc_end_[d]; }
  uint64_t document_bytes(uint64_t d) const { return doc_bytes_[d]; }
  uint64_t document_hash(uint64_t d) const { return doc_hash_[d]; }
  const std::string& document_source(uint64_t d) const { return sources_[doc_source_[d]]; }

  /// Tokens [begin, begin + count) of the shard into `to`. Throws Error(bad_input) naming file and block.
  void read(uint64_t begin, uint64_t count, int32_t* to) const;
  /// Checks every byte of the file.
  void verify() const;

 private:
  void check_block(uint64_t block) const;
  void check_index() const;
  [[noreturn]] void damaged(const std::string& why) const;

  std::string path_;
  MappedFile file_;
  ShardInfo info_;
  std::string file_hash_;
  uint64_t tokens_offset_ = 0, width_ = 2;
  std::vector<uint64_t> doc_end_, doc_bytes_, doc_hash_;
  std::vector<uint32_t> doc_source_, block_crc_;
  std::vector<std::string> sources_;
  std::string tokenizer_json_;
  mutable std::unique_ptr<std::atomic<bool>[]> checked_;  // one for each block
};

}  // namespace jambalaya
