// Files: mapped for reading, hashed, and published so that a reader sees the whole new file or none.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace jambalaya {

/// A whole file mapped read-only. Throws Error(bad_input) naming the path when it cannot be opened.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

/// XXH3-128 of the concatenation of two byte ranges, as 32 hexadecimal digits.
std::string xxh3_hex(std::string_view first, std::string_view second = {});
/// XXH3-64, the hash of a document's text.
uint64_t xxh3_64(std::string_view bytes);

/// A name for the file while it is written, in the same folder as `path`.
std::string temporary_name(const std::string& path);
/// fsync(temporary), rename to `path`, fsync(folder). On failure the temporary is removed and Error(io)
/// thrown.
void publish_file(const std::string& temporary, const std::string& path);
/// Writes `content` to a temporary file and publishes it.
void write_file_atomically(const std::string& path, std::string_view content);

}  // namespace jambalaya
