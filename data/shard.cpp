#include "data/shard.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "data/crc32c.h"
#include "data/hdf5_file.h"
#include "data/seal.h"
#include "kernels/error.h"

namespace jambalaya {

static_assert(std::endian::native == std::endian::little,
              "tokens are read from the map as they lie in the file");

namespace {

ShardInfo read_attributes(Hdf5Reader& file, const std::string& path) {
  if (file.text("format") != "jambalaya-tokens")
    throw Error(Exit::bad_input, cat(path, ": format '", file.text("format"), "', not jambalaya-tokens"));
  if (file.text("format_version") != cat(Seal::major, ".", Seal::minor))
    throw Error(Exit::bad_input,
                cat(path, ": format version ", file.text("format_version"), " under a seal of another"));
  return {.split = file.text("split"),
          .split_seed = file.natural("split_seed"),
          .tokens = file.natural("n_tokens"),
          .documents = file.natural("n_docs"),
          .raw_bytes = file.natural("raw_bytes"),
          .vocab_size = file.natural("vocab_size"),
          .bos = file.integer("bos_id"),
          .eos = file.integer("eos_id"),
          .pad = file.integer("pad_id"),
          .tokenizer_fingerprint = file.text("tokenizer_fingerprint")};
}

std::vector<std::string> split_names(const std::string& text) {
  std::vector<std::string> names;
  for (size_t begin = 0, end; (end = text.find('\0', begin)) != std::string::npos; begin = end + 1)
    names.push_back(text.substr(begin, end - begin));
  return names;
}

}  // namespace

void Shard::damaged(const std::string& why) const { throw Error(Exit::bad_input, cat(path_, ": ", why)); }

Shard::Shard(const std::string& path, const ShardRecord* expected) : path_(path), file_(path) {
  if (expected != nullptr && file_.size() != expected->file_bytes)
    damaged(cat(file_.size(), " bytes, the manifest says ", expected->file_bytes));
  const Seal seal = Seal::check(path, file_.text());
  if (expected != nullptr && seal.file_hash != expected->hash)
    damaged("another file than the manifest lists (its hash differs)");
  file_hash_ = seal.file_hash;
  {
    Hdf5Reader file(path);
    info_ = read_attributes(file, path);
    const Hdf5Reader::Place tokens = file.place("tokens");
    if (tokens.offset != seal.tokens_offset || tokens.count * tokens.width != seal.tokens_bytes ||
        tokens.count != info_.tokens)
      damaged("seal, attributes and /tokens disagree about where the tokens are");
    tokens_offset_ = tokens.offset;
    width_ = tokens.width;
    doc_end_ = file.u64("doc_end");
    doc_bytes_ = file.u64("doc_bytes");
    doc_hash_ = file.u64("doc_hash");
    doc_source_ = file.u32("doc_source");
    block_crc_ = file.u32("block_crc32c");
    sources_ = split_names(file.bytes("sources"));
    tokenizer_json_ = file.bytes("tokenizer_json");
  }  // HDF5 is done with: from here on only the map is read, by any thread
  check_index();
  if (expected != nullptr &&
      (info_.split != expected->split || info_.tokens != expected->tokens ||
       info_.documents != expected->documents || info_.raw_bytes != expected->raw_bytes))
    damaged("counts or split differ from the manifest's");
  checked_ = std::make_unique<std::atomic<bool>[]>(block_crc_.size());
}

void Shard::check_index() const {
  if (info_.vocab_size == 0 || info_.vocab_size > uint64_t(INT32_MAX) + 1 ||
      width_ != (info_.vocab_size <= 1 << 16 ? 2u : 4u))
    damaged(cat("a vocabulary of ", info_.vocab_size, " does not go with tokens of ", width_, " bytes"));
  for (int64_t id : {info_.bos, info_.eos, info_.pad})
    if (id < 0 || uint64_t(id) >= info_.vocab_size)
      damaged(cat("special id ", id, " is outside the vocabulary"));
  const uint64_t n = info_.documents;
  if (n == 0 || doc_end_.size() != n || doc_bytes_.size() != n || doc_hash_.size() != n ||
      doc_source_.size() != n)
    damaged("the document arrays have not n_docs elements");
  if (block_crc_.size() != (info_.tokens * width_ + block_bytes - 1) / block_bytes)
    damaged("/block_crc32c has the wrong length");
  uint64_t raw_bytes = 0;
  for (uint64_t d = 0; d < n; d++) {
    // bos and eos are always there; the loader counts tokens of a document in 32 bits
    if (doc_end_[d] < document_begin(d) + 2 || doc_end_[d] - document_begin(d) > INT32_MAX)
      damaged(cat("document ", d, " ends at token ", doc_end_[d], " and begins at ", document_begin(d)));
    if (doc_source_[d] >= sources_.size())
      damaged(cat("document ", d, " names source ", doc_source_[d], " of ", sources_.size()));
    raw_bytes += doc_bytes_[d];
  }
  if (doc_end_.back() != info_.tokens) damaged("the last document does not end with the last token");
  if (raw_bytes != info_.raw_bytes) damaged("raw_bytes is not the sum of /doc_bytes");
}

void Shard::check_block(uint64_t block) const {
  const uint64_t begin = block * block_bytes, bytes = std::min(block_bytes, info_.tokens * width_ - begin);
  const uint8_t* data = file_.data() + tokens_offset_ + begin;
  const uint32_t crc = crc32c(data, bytes);
  if (crc != block_crc_[block])
    damaged(cat("block ", block, " of /tokens is damaged (file bytes ", tokens_offset_ + begin, " to ",
                tokens_offset_ + begin + bytes, "; CRC32C ", crc, ", written as ", block_crc_[block], ")"));
  uint32_t highest = 0;
  if (width_ == 2) {
    const uint16_t* ids = reinterpret_cast<const uint16_t*>(data);
    uint16_t top = 0;
    for (uint64_t i = 0; i < bytes / 2; i++) top = std::max(top, ids[i]);
    highest = top;
  } else {
    const uint32_t* ids = reinterpret_cast<const uint32_t*>(data);
    for (uint64_t i = 0; i < bytes / 4; i++) highest = std::max(highest, ids[i]);
  }
  if (highest >= info_.vocab_size)
    damaged(cat("block ", block, " of /tokens holds id ", highest, " of a vocabulary of ", info_.vocab_size));
  checked_[block].store(true, std::memory_order_release);
}

void Shard::read(uint64_t begin, uint64_t count, int32_t* to) const {
  JAMBALAYA_CHECK(begin <= info_.tokens && count <= info_.tokens - begin, begin, " + ", count, " of ",
                  info_.tokens);
  if (count == 0) return;
  // Two threads may check one block twice: the same answer, and no lock on the way of every read.
  for (uint64_t b = begin * width_ / block_bytes; b <= ((begin + count) * width_ - 1) / block_bytes; b++)
    if (!checked_[b].load(std::memory_order_acquire)) check_block(b);
  const uint8_t* data = file_.data() + tokens_offset_ + begin * width_;
  if (width_ == 4) {
    std::memcpy(to, data, count * 4);
    return;
  }
  const uint16_t* ids = reinterpret_cast<const uint16_t*>(data);
  for (uint64_t i = 0; i < count; i++) to[i] = ids[i];
}

void Shard::verify() const {
  for (uint64_t b = 0; b < block_crc_.size(); b++) check_block(b);
  Seal::check(path_, file_.text());
  if (xxh3_hex(file_.text().substr(Seal::bytes)) != file_hash_)
    damaged("the file's hash differs from the seal's");
}

}  // namespace jambalaya
