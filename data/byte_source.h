// Bytes of a file in order, unpacked when the file is gzip or Zstandard.
#pragma once
#include <cstddef>
#include <memory>
#include <string>

namespace jambalaya {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// Up to `capacity` bytes into `to`; 0 only at the end. Throws Error(bad_input) naming the file when the
  /// packed stream is damaged or ends early.
  virtual size_t read(char* to, size_t capacity) = 0;
};

/// Opens `path`; gzip and Zstandard are recognised by their first bytes, whatever the name says. Several gzip
/// members or Zstandard frames one after another are one text.
std::unique_ptr<ByteSource> open_byte_source(const std::string& path);

}  // namespace jambalaya
