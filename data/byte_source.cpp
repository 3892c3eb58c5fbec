#include "data/byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <vector>

#include "kernels/error.h"

namespace jambalaya {

namespace {

class PlainSource final : public ByteSource {
 public:
  explicit PlainSource(const std::string& path)
      : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) throw Error(Exit::bad_input, cat(path, ": cannot be opened: ", std::strerror(errno)));
    struct stat status {};
    if (::fstat(fd_, &status) == 0 && S_ISDIR(status.st_mode)) {
      ::close(fd_);
      throw Error(Exit::bad_input, cat(path, ": is a folder; give the files in it"));
    }
  }
  ~PlainSource() override { ::close(fd_); }

  size_t read(char* to, size_t capacity) override {
    if (!head_.empty()) {
      size_t n = head_.copy(to, capacity);
      head_.erase(0, n);
      return n;
    }
    return read_file(to, capacity);
  }

  /// The first bytes (up to four), which read() will give again.
  std::string_view peek() {
    char bytes[4];
    while (head_.size() < sizeof bytes) {
      size_t n = read_file(bytes, sizeof bytes - head_.size());
      if (n == 0) break;
      head_.append(bytes, n);
    }
    return head_;
  }

 private:
  size_t read_file(char* to, size_t capacity) {
    for (;;) {
      ssize_t n = ::read(fd_, to, capacity);
      if (n >= 0) return size_t(n);
      if (errno != EINTR) throw Error(Exit::io, cat(path_, ": reading failed: ", std::strerror(errno)));
    }
  }

  std::string path_, head_;
  int fd_;
};

class GzipSource final : public ByteSource {
 public:
  GzipSource(const std::string& path, std::unique_ptr<PlainSource> packed)
      : path_(path), packed_(std::move(packed)), input_(1 << 16) {
    JAMBALAYA_CHECK(inflateInit2(&stream_, 15 + 16) == Z_OK);  // 16: a gzip header, nothing else
  }
  ~GzipSource() override { inflateEnd(&stream_); }

  size_t read(char* to, size_t capacity) override {
    stream_.next_out = reinterpret_cast<Bytef*>(to);
    stream_.avail_out = uInt(capacity);
    while (stream_.avail_out == capacity) {
      if (stream_.avail_in == 0 && !fill()) {
        if (inside_member_) throw Error(Exit::bad_input, cat(path_, ": the gzip file is truncated"));
        return 0;
      }
      if (!inside_member_) {
        JAMBALAYA_CHECK(inflateReset(&stream_) == Z_OK);
        inside_member_ = true;
      }
      int code = inflate(&stream_, Z_NO_FLUSH);
      if (code == Z_STREAM_END) {
        inside_member_ = false;
      } else if (code != Z_OK && code != Z_BUF_ERROR) {
        throw Error(Exit::bad_input,
                    cat(path_, ": the gzip file is damaged: ", stream_.msg ? stream_.msg : "bad data"));
      }
    }
    return capacity - stream_.avail_out;
  }

 private:
  bool fill() {
    stream_.avail_in = uInt(packed_->read(input_.data(), input_.size()));
    stream_.next_in = reinterpret_cast<Bytef*>(input_.data());
    return stream_.avail_in > 0;
  }

  std::string path_;
  std::unique_ptr<PlainSource> packed_;
  std::vector<char> input_;
  z_stream stream_{};
  bool inside_member_ = true;
};

class ZstdSource final : public ByteSource {
 public:
  ZstdSource(const std::string& path, std::unique_ptr<PlainSource> packed)
      : path_(path), packed_(std::move(packed)), input_(ZSTD_DStreamInSize()), stream_(ZSTD_createDStream()) {
    JAMBALAYA_CHECK(stream_ != nullptr);
  }
  ~ZstdSource() override { ZSTD_freeDStream(stream_); }

  size_t read(char* to, size_t capacity) override {
    ZSTD_outBuffer out{to, capacity, 0};
    while (out.pos == 0) {
      // The decoder may hold more output than fitted last time, so it is asked before the file is.
      const bool at_end = buffer_.pos == buffer_.size && !fill();
      const size_t before = buffer_.pos;
      const size_t code = ZSTD_decompressStream(stream_, &out, &buffer_);
      if (ZSTD_isError(code))
        throw Error(Exit::bad_input,
                    cat(path_, ": the Zstandard file is damaged: ", ZSTD_getErrorName(code)));
      if (out.pos > 0 || buffer_.pos > before) frame_open_ = code != 0;
      if (at_end && out.pos == 0) {
        if (frame_open_) throw Error(Exit::bad_input, cat(path_, ": the Zstandard file is truncated"));
        return 0;
      }
    }
    return out.pos;
  }

 private:
  bool fill() {
    buffer_ = {input_.data(), packed_->read(input_.data(), input_.size()), 0};
    return buffer_.size > 0;
  }

  std::string path_;
  std::unique_ptr<PlainSource> packed_;
  std::vector<char> input_;
  ZSTD_DStream* stream_;
  ZSTD_inBuffer buffer_{nullptr, 0, 0};
  bool frame_open_ = true;
};

}  // namespace

std::unique_ptr<ByteSource> open_byte_source(const std::string& path) {
  auto file = std::make_unique<PlainSource>(path);
  const std::string_view head = file->peek();
  if (head.starts_with("\x1f\x8b")) return std::make_unique<GzipSource>(path, std::move(file));
  const bool skippable = head.size() == 4 && (head[0] & 0xf0) == 0x50 && head.substr(1) == "\x2a\x4d\x18";
  if (head == "\x28\xb5\x2f\xfd" || skippable) return std::make_unique<ZstdSource>(path, std::move(file));
  // A packed file cut to nothing must not pass for an empty text.
  if (path.ends_with(".gz") || path.ends_with(".zst"))
    throw Error(Exit::bad_input,
                cat(path, ": does not begin like a ", path.ends_with(".gz") ? "gzip" : "Zstandard", " file"));
  return file;
}

}  // namespace jambalaya
