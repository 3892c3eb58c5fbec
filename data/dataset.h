// A token store: a folder of shards and manifest.json, which is written last (a folder without it is
// unfinished).
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/shard.h"
#include "data/text_reader.h"

namespace jambalaya {

/// Sums over the shards of one split.
struct SplitTotals {
  uint64_t documents = 0, tokens = 0,
           raw_bytes = 0;  ///< tokens include bos and eos; raw_bytes are of the texts
};

/// manifest.json
struct Manifest {
  std::string tokenizer_fingerprint;
  int64_t vocab_size = 0;
  int32_t bos = 0, eos = 0, pad = 0;
  double held_out_share = 0;
  uint64_t split_seed = 0;
  struct Source {
    std::string path;  ///< as the user gave it
    uint64_t documents = 0, raw_bytes = 0;
  };
  std::vector<Source> sources;
  std::vector<ShardRecord> shards;  ///< in order

  SplitTotals totals(std::string_view split) const;
};

std::string to_json(const Manifest& manifest);
/// Strict: the text must be, byte for byte, what to_json writes. Throws Error(bad_input) naming `path`.
Manifest parse_manifest(const std::string& text, const std::string& path);

/// All documents of one split, numbered through its shards in order. Safe to read from several threads.
class TokenSplit {
 public:
  TokenSplit(std::string name, std::vector<std::shared_ptr<const Shard>> shards);

  const std::string& name() const { return name_; }
  /// Of everything that fixes the tokens and their order: two splits with one fingerprint hold the same
  /// stream.
  const std::string& fingerprint() const { return fingerprint_; }
  const SplitTotals& totals() const { return totals_; }
  int64_t documents() const { return int64_t(lengths_.size()); }
  /// Tokens of each document, bos and eos included.
  const std::vector<uint32_t>& lengths() const { return lengths_; }
  uint64_t document_bytes(int64_t d) const;
  const std::string& document_source(int64_t d) const;
  /// Tokens [begin, begin + count) of document d.
  void read(int64_t d, int64_t begin, int64_t count, int32_t* to) const;
  /// Document d, bos and eos included.
  std::vector<int32_t> document(int64_t d) const;

 private:
  size_t shard_of(int64_t d) const;
  std::string name_, fingerprint_;
  std::vector<std::shared_ptr<const Shard>> shards_;
  std::vector<int64_t> first_document_;  // of each shard; one more at the end
  std::vector<uint32_t> lengths_;
  SplitTotals totals_;
};

/// An opened store.
class Dataset {
 public:
  /// Opens every shard (index checked, tokens not yet read). Throws Error(bad_input) naming the file at
  /// fault.
  explicit Dataset(const std::string& folder);

  const Manifest& manifest() const { return manifest_; }
  const std::string& tokenizer_json() const;
  const TokenSplit& train() const { return *train_; }
  const TokenSplit& held_out() const { return *held_out_; }
  const TokenSplit& split(std::string_view name) const;
  /// Reads and checks every byte of every file.
  void verify() const;

 private:
  std::string folder_;
  Manifest manifest_;
  std::vector<std::shared_ptr<const Shard>> shards_;
  std::unique_ptr<TokenSplit> train_, held_out_;
};

/// What `data inspect` shows of a split.
struct SplitSummary {
  SplitTotals totals;
  double bytes_per_token = 0;  ///< raw bytes by text tokens (without bos and eos)
  uint32_t shortest = 0, longest = 0, median = 0;
  /// [i]: documents of 2^i to 2^(i+1) - 1 tokens.
  std::array<uint64_t, 32> histogram{};
};
SplitSummary summarize(const TokenSplit& split);

struct StoreOptions {
  TextOptions text;
  double held_out_share =
      0.01;  ///< of the documents, chosen by hash of their text: more files never move a document
  uint64_t split_seed = 0;
  int64_t shard_bytes =
      256 << 20;  ///< a shard is closed before it grows beyond; one longer document has its own shard
  bool overwrite = false;  ///< replace a store that is already in the folder
};

struct EncodeProgress {
  size_t files_done = 0, files = 0;
  uint64_t documents = 0, tokens = 0, raw_bytes = 0;
};

/// Appends the ids of a text to `ids` (no bos, no eos). Called from several threads at once.
using EncodeFunction = std::function<void(std::string_view text, std::vector<int32_t>& ids)>;

/// True when a document with this hash belongs to the held-out split.
bool is_held_out(uint64_t document_hash, double share, uint64_t split_seed);

/// Encodes the documents of `files`, in order, into a new store in `folder`. The bytes written do not depend
/// on the number of threads. `progress` may be empty; it is called by the calling thread.
Manifest encode_dataset(const std::vector<std::string>& files, const std::string& folder,
                        const TokenizerRecord& tokenizer, const EncodeFunction& encode,
                        const StoreOptions& options, int threads,
                        const std::function<void(const EncodeProgress&)>& progress = {});

}  // namespace jambalaya
