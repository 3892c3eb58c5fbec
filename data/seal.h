// The first 4 KiB of a shard: what must be true of the rest before HDF5 is let at it.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace jambalaya {

/// The hashes cover everything: the seal itself (its last line; the padding is zero), the index
/// (`index_hash`: all bytes after the seal but those of /tokens) and the whole (`file_hash`: all bytes after
/// the seal). A reader checks the first two at once and the tokens block by block, and so need not read
/// gigabytes to open a file.
struct Seal {
  static constexpr uint64_t bytes = 4096;
  static constexpr int major = 1, minor = 0;

  uint64_t file_bytes = 0, tokens_offset = 0, tokens_bytes = 0;
  std::string index_hash, file_hash;

  /// The 4096 bytes, human-readable lines padded with zeros.
  std::string render() const;
  /// Computes the hashes of a finished file (`file`: all of it, the first 4 KiB are ignored).
  static Seal of(std::string_view file, uint64_t tokens_offset, uint64_t tokens_bytes);
  /// Reads the seal of a file and checks it, the file's size and the index. Throws Error(bad_input) naming
  /// `path`.
  static Seal check(const std::string& path, std::string_view file);
  std::string index_hash_of(std::string_view file) const;
};

}  // namespace jambalaya
