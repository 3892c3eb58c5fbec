#include <fcntl.h>
#include <unistd.h>

#include <cstring>

#include "data/crc32c.h"
#include "data/hdf5_file.h"
#include "data/seal.h"
#include "data/shard.h"
#include "kernels/error.h"

namespace jambalaya {

ShardWriter::ShardWriter(const TokenizerRecord& tokenizer, std::string split, uint64_t split_seed)
    : tokenizer_(tokenizer),
      split_(std::move(split)),
      split_seed_(split_seed),
      width_(tokenizer.vocab_size <= 1 << 16 ? 2 : 4) {
  for (int64_t id : {tokenizer.bos, tokenizer.eos, tokenizer.pad})
    if (id < 0 || id >= tokenizer.vocab_size)
      throw Error(Exit::bad_input, cat("the tokenizer's special id ", id, " is outside its vocabulary of ",
                                       tokenizer.vocab_size));
}

void ShardWriter::add(std::span<const int32_t> ids, uint64_t raw_bytes, uint64_t hash,
                      const std::string& source) {
  JAMBALAYA_CHECK(source.find('\0') == std::string::npos);
  for (int32_t id : ids)
    if (id < 0 || id >= tokenizer_.vocab_size)
      throw Error(Exit::bad_input, cat(source, ": the tokenizer gave id ", id, " outside its vocabulary of ",
                                       tokenizer_.vocab_size));
  const size_t at = tokens_.size();
  tokens_.resize(at + (ids.size() + 2) * width_);
  unsigned char* to = tokens_.data() + at;
  auto append = [&](int32_t id) {
    for (size_t b = 0; b < width_; b++) *to++ = static_cast<unsigned char>(uint32_t(id) >> (8 * b));
  };
  append(tokenizer_.bos);
  for (int32_t id : ids) append(id);
  append(tokenizer_.eos);
  if (source_count_ == 0 || source != last_source_) {
    sources_ += source + '\0';
    last_source_ = source;
    source_count_++;
  }
  doc_end_.push_back(tokens_.size() / width_);
  doc_bytes_.push_back(raw_bytes);
  doc_hash_.push_back(hash);
  doc_source_.push_back(source_count_ - 1);
  raw_bytes_ += raw_bytes;
}

ShardInfo ShardWriter::info() const {
  return {.split = split_,
          .split_seed = split_seed_,
          .tokens = tokens_.size() / width_,
          .documents = documents(),
          .raw_bytes = raw_bytes_,
          .vocab_size = uint64_t(tokenizer_.vocab_size),
          .bos = tokenizer_.bos,
          .eos = tokenizer_.eos,
          .pad = tokenizer_.pad,
          .tokenizer_fingerprint = tokenizer_.fingerprint};
}

namespace {

void write_attributes(Hdf5Writer& file, const ShardInfo& info) {
  file.attribute("format", std::string("jambalaya-tokens"));
  file.attribute("format_version", cat(Seal::major, ".", Seal::minor));
  file.attribute("split", info.split);
  file.attribute("split_seed", info.split_seed);
  file.attribute("n_tokens", info.tokens);
  file.attribute("n_docs", info.documents);
  file.attribute("raw_bytes", info.raw_bytes);
  file.attribute("vocab_size", info.vocab_size);
  file.attribute("bos_id", info.bos);
  file.attribute("eos_id", info.eos);
  file.attribute("pad_id", info.pad);
  file.attribute("tokenizer_fingerprint", info.tokenizer_fingerprint);
}

std::vector<uint32_t> block_checksums(const std::vector<unsigned char>& tokens) {
  std::vector<uint32_t> crc;
  for (size_t at = 0; at < tokens.size(); at += Shard::block_bytes)
    crc.push_back(crc32c(tokens.data() + at, std::min<size_t>(Shard::block_bytes, tokens.size() - at)));
  return crc;
}

/// Fills the user block that HDF5 left free.
std::string write_seal(const std::string& path, uint64_t tokens_offset, uint64_t tokens_bytes) {
  std::string text;
  Seal seal;
  {
    MappedFile file(path);
    seal = Seal::of(file.text(), tokens_offset, tokens_bytes);
    text = seal.render();
  }
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  const bool written = fd >= 0 && ::pwrite(fd, text.data(), text.size(), 0) == ssize_t(text.size());
  const bool closed = fd >= 0 && ::close(fd) == 0;
  if (!written || !closed) throw Error(Exit::io, cat(path, ": the seal cannot be written (disk full?)"));
  return seal.file_hash;
}

}  // namespace

void ShardWriter::write_hdf5(const std::string& path) const {
  Hdf5Writer file(path, Seal::bytes, std::min<uint64_t>(1 << 16, std::max<uint64_t>(1, tokens_.size())));
  const bool narrow = width_ == 2;
  // The spool holds little-endian bytes: given as that type, they go to the file as they are.
  const hid_t type = narrow ? H5T_STD_U16LE : H5T_STD_U32LE;
  const uint64_t offset = file.dataset("tokens", type, type, tokens_.data(), tokens_.size() / width_);
  JAMBALAYA_CHECK(offset % 4096 == 0, "tokens lie at ", offset);
  file.dataset("doc_end", H5T_NATIVE_UINT64, H5T_STD_U64LE, doc_end_.data(), documents());
  file.dataset("doc_bytes", H5T_NATIVE_UINT64, H5T_STD_U64LE, doc_bytes_.data(), documents());
  file.dataset("doc_hash", H5T_NATIVE_UINT64, H5T_STD_U64LE, doc_hash_.data(), documents());
  file.dataset("doc_source", H5T_NATIVE_UINT32, H5T_STD_U32LE, doc_source_.data(), documents());
  file.dataset("sources", H5T_NATIVE_UINT8, H5T_STD_U8LE, sources_.data(), sources_.size());
  const std::vector<uint32_t> crc = block_checksums(tokens_);
  file.dataset("block_crc32c", H5T_NATIVE_UINT32, H5T_STD_U32LE, crc.data(), crc.size());
  file.dataset("tokenizer_json", H5T_NATIVE_UINT8, H5T_STD_U8LE, tokenizer_.json.data(),
               tokenizer_.json.size());
  write_attributes(file, info());
  file.close();
}

ShardRecord ShardWriter::finish(const std::string& folder, const std::string& name) {
  JAMBALAYA_CHECK(documents() > 0, "an empty shard is never written");
  const std::string path = folder + "/" + name, temporary = temporary_name(path);
  ShardRecord record{.name = name,
                     .split = split_,
                     .tokens = info().tokens,
                     .documents = documents(),
                     .raw_bytes = raw_bytes_};
  try {
    write_hdf5(temporary);
    uint64_t offset;
    {
      Hdf5Reader written(temporary);  // what HDF5 says it wrote must be there: a full disk can pass its close
      Hdf5Reader::Place place = written.place("tokens");
      JAMBALAYA_CHECK(place.count == record.tokens && place.width == width_);
      offset = place.offset;
    }
    record.hash = write_seal(temporary, offset, tokens_.size());
    record.file_bytes = MappedFile(temporary).size();
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  publish_file(temporary, path);
  tokens_.clear();
  doc_end_.clear();
  doc_bytes_.clear();
  doc_hash_.clear();
  doc_source_.clear();
  sources_.clear();
  source_count_ = 0;
  raw_bytes_ = 0;
  return record;
}

}  // namespace jambalaya
