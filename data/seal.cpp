#include "data/seal.h"

#include <cinttypes>
#include <cstdio>

#include "data/file_io.h"
#include "kernels/error.h"

namespace jambalaya {

std::string Seal::render() const {
  std::string text = cat("Jambalaya tokens ", major, ".", minor, "\nfile_bytes ", file_bytes,
                         "\ntokens_offset ", tokens_offset, "\ntokens_bytes ", tokens_bytes, "\nindex_xxh3 ",
                         index_hash, "\nfile_xxh3 ", file_hash, "\n");
  text += cat("seal_xxh3 ", xxh3_hex(text), "\n");
  text.resize(bytes, '\0');
  return text;
}

std::string Seal::index_hash_of(std::string_view file) const {
  return xxh3_hex(file.substr(bytes, tokens_offset - bytes), file.substr(tokens_offset + tokens_bytes));
}

Seal Seal::of(std::string_view file, uint64_t tokens_offset, uint64_t tokens_bytes) {
  Seal seal{.file_bytes = file.size(), .tokens_offset = tokens_offset, .tokens_bytes = tokens_bytes};
  seal.index_hash = seal.index_hash_of(file);
  seal.file_hash = xxh3_hex(file.substr(bytes));
  return seal;
}

Seal Seal::check(const std::string& path, std::string_view file) {
  auto refuse = [&](const std::string& why) -> void { throw Error(Exit::bad_input, cat(path, ": ", why)); };
  if (file.starts_with("\x89HDF\r\n\x1a\n"))
    refuse("an HDF5 file without Jambalaya's seal: not a token shard");
  int found_major = 0, found_minor = 0, used = 0;
  const std::string head(file.substr(0, bytes));
  if (std::sscanf(head.c_str(), "Jambalaya tokens %9d.%9d\n%n", &found_major, &found_minor, &used) != 2 ||
      used == 0)
    refuse("not a token shard (.tok.h5), or its first bytes are damaged");
  if (found_major != major || found_minor > minor)
    refuse(cat("format version ", found_major, ".", found_minor, "; this program reads up to ", major, ".",
               minor));
  Seal seal;
  char index[33] = "", whole[33] = "";
  std::sscanf(head.c_str() + used,
              "file_bytes %20" SCNu64 "\ntokens_offset %20" SCNu64 "\ntokens_bytes %20" SCNu64
              "\nindex_xxh3 %32s\nfile_xxh3 %32s",
              &seal.file_bytes, &seal.tokens_offset, &seal.tokens_bytes, index, whole);
  seal.index_hash = index;
  seal.file_hash = whole;
  // Written out again it must be the same 4096 bytes: nothing unread is left in between or behind.
  if (seal.render() != head) refuse("the seal (first 4 KiB) is damaged");
  if (seal.file_bytes != file.size())
    refuse(cat(file.size() < seal.file_bytes ? "truncated: " : "too long: ", file.size(),
               " bytes, the seal says ", seal.file_bytes));
  if (seal.tokens_offset < bytes || seal.tokens_offset > file.size() ||
      seal.tokens_bytes > file.size() - seal.tokens_offset)
    refuse("the seal places the tokens outside the file");
  if (seal.index_hash_of(file) != seal.index_hash)
    refuse("the index is damaged (its hash differs from the seal's)");
  return seal;
}

}  // namespace jambalaya
