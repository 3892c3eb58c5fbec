#include "data/dataset.h"

#include <algorithm>
#include <bit>
#include <filesystem>

#include "data/file_io.h"
#include "kernels/error.h"

namespace jambalaya {

TokenSplit::TokenSplit(std::string name, std::vector<std::shared_ptr<const Shard>> shards)
    : name_(std::move(name)), shards_(std::move(shards)), first_document_(1, 0) {
  std::string identity = name_;
  for (const auto& shard : shards_) {
    for (uint64_t d = 0; d < shard->documents(); d++)
      lengths_.push_back(uint32_t(shard->document_end(d) - shard->document_begin(d)));
    first_document_.push_back(int64_t(lengths_.size()));
    totals_.documents += shard->documents();
    totals_.tokens += shard->tokens();
    totals_.raw_bytes += shard->info().raw_bytes;
    identity += cat("\n", shard->info().tokenizer_fingerprint, " ", shard->content_hash());
  }
  fingerprint_ = xxh3_hex(identity);
}

size_t TokenSplit::shard_of(int64_t d) const {
  JAMBALAYA_CHECK(d >= 0 && d < documents(), "document ", d, " of ", documents());
  return size_t(std::upper_bound(first_document_.begin(), first_document_.end(), d) -
                first_document_.begin()) -
         1;
}

uint64_t TokenSplit::document_bytes(int64_t d) const {
  const size_t s = shard_of(d);
  return shards_[s]->document_bytes(uint64_t(d - first_document_[s]));
}

const std::string& TokenSplit::document_source(int64_t d) const {
  const size_t s = shard_of(d);
  return shards_[s]->document_source(uint64_t(d - first_document_[s]));
}

void TokenSplit::read(int64_t d, int64_t begin, int64_t count, int32_t* to) const {
  const size_t s = shard_of(d);
  JAMBALAYA_CHECK(begin >= 0 && count >= 0 && begin + count <= int64_t(lengths_[size_t(d)]));
  shards_[s]->read(shards_[s]->document_begin(uint64_t(d - first_document_[s])) + uint64_t(begin),
                   uint64_t(count), to);
}

std::vector<int32_t> TokenSplit::document(int64_t d) const {
  JAMBALAYA_CHECK(d >= 0 && d < documents(), "document ", d, " of ", documents());
  std::vector<int32_t> ids(lengths_[size_t(d)]);
  read(d, 0, int64_t(ids.size()), ids.data());
  return ids;
}

Dataset::Dataset(const std::string& folder) : folder_(folder) {
  const std::string path = folder + "/manifest.json";
  if (!std::filesystem::exists(path))
    throw Error(Exit::bad_input,
                cat(folder, ": no manifest.json: not a token store, or its encoding did not finish"));
  manifest_ = parse_manifest(std::string(MappedFile(path).text()), path);
  std::vector<std::shared_ptr<const Shard>> train, held_out;
  for (const ShardRecord& record : manifest_.shards) {
    auto shard = std::make_shared<Shard>(folder + "/" + record.name, &record);
    const ShardInfo& info = shard->info();
    if (info.tokenizer_fingerprint != manifest_.tokenizer_fingerprint ||
        info.vocab_size != uint64_t(manifest_.vocab_size) || info.bos != manifest_.bos ||
        info.eos != manifest_.eos || info.pad != manifest_.pad)
      throw Error(Exit::bad_input,
                  cat(shard->path(), ": made with another tokenizer than the manifest names"));
    shards_.push_back(shard);
    (record.split == "train" ? train : held_out).push_back(shard);
  }
  if (shards_.empty()) throw Error(Exit::bad_input, cat(path, ": lists no shard"));
  train_ = std::make_unique<TokenSplit>("train", std::move(train));
  held_out_ = std::make_unique<TokenSplit>("held-out", std::move(held_out));
}

const std::string& Dataset::tokenizer_json() const { return shards_.front()->tokenizer_json(); }

const TokenSplit& Dataset::split(std::string_view name) const {
  if (name == "train") return *train_;
  if (name == "held-out") return *held_out_;
  throw Error(Exit::usage, cat("split '", name, "': there are 'train' and 'held-out'"));
}

void Dataset::verify() const {
  for (const auto& shard : shards_) shard->verify();
}

SplitSummary summarize(const TokenSplit& split) {
  SplitSummary summary{.totals = split.totals()};
  std::vector<uint32_t> lengths = split.lengths();
  if (lengths.empty()) return summary;
  for (uint32_t length : lengths) summary.histogram[size_t(std::bit_width(length)) - 1]++;
  auto middle = lengths.begin() + ptrdiff_t(lengths.size() / 2);
  std::nth_element(lengths.begin(), middle, lengths.end());
  summary.median = *middle;
  summary.shortest = *std::min_element(lengths.begin(), lengths.end());
  summary.longest = *std::max_element(lengths.begin(), lengths.end());
  const uint64_t text_tokens = summary.totals.tokens - 2 * summary.totals.documents;
  summary.bytes_per_token = text_tokens == 0 ? 0 : double(summary.totals.raw_bytes) / double(text_tokens);
  return summary;
}

}  // namespace jambalaya
