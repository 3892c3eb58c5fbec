#include "train/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <vector>

#include "kernels/error.h"

namespace jambalaya {
namespace {

[[noreturn]] void io_failure(const std::string& path, const char* what) {
  throw Error(Exit::io, cat(path, ": cannot ", what, ": ", system_reason()));
}

std::string hex(const XXH128_hash_t& hash) {
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(hash.high64),
                static_cast<unsigned long long>(hash.low64));
  return text;
}

}  // namespace

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = other.release();
  }
  return *this;
}

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

int FileDescriptor::release() {
  int fd = fd_;
  fd_ = -1;
  return fd;
}

std::string system_reason() { return std::strerror(errno); }

FileDescriptor open_regular_file(const std::string& path, int64_t& bytes) {
  // O_NONBLOCK: opening a named pipe must not wait for a writer.
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) throw Error(Exit::bad_input, cat(path, ": cannot open: ", system_reason()));
  struct stat status {};
  if (::fstat(file.get(), &status) != 0)
    throw Error(Exit::bad_input, cat(path, ": cannot stat: ", system_reason()));
  if (!S_ISREG(status.st_mode)) throw Error(Exit::bad_input, cat(path, ": not a regular file"));
  bytes = status.st_size;
  return file;
}

void read_exactly(const FileDescriptor& file, const std::string& path, int64_t offset, int64_t bytes,
                  void* out) {
  char* to = static_cast<char*>(out);
  while (bytes > 0) {
    ssize_t n = ::pread(file.get(), to, size_t(bytes), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error(Exit::io, cat(path, ": cannot read at byte ", offset, ": ", system_reason()));
    if (n == 0)
      throw Error(Exit::bad_input, cat(path, ": ends at byte ", offset, ", ", bytes, " bytes too early"));
    to += n;
    offset += n;
    bytes -= n;
  }
}

std::string read_small_file(const std::string& path, int64_t limit) {
  int64_t bytes = 0;
  FileDescriptor file = open_regular_file(path, bytes);
  if (bytes > limit)
    throw Error(Exit::bad_input, cat(path, ": ", bytes, " bytes, more than the ", limit, " expected here"));
  std::string text(size_t(bytes), '\0');
  read_exactly(file, path, 0, bytes, text.data());
  return text;
}

void write_all(const FileDescriptor& file, const std::string& path, const void* data, size_t bytes) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    ssize_t n = ::write(file.get(), from, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) io_failure(path, "write");
    from += n;
    bytes -= size_t(n);
  }
}

FileDescriptor create_file(const std::string& path) {
  FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (file.get() < 0) io_failure(path, "create");
  return file;
}

void sync_path(const std::string& path) {
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) io_failure(path, "open to force it to the disk");
  if (::fsync(file.get()) != 0) io_failure(path, "force to the disk");
}

void sync_and_close(FileDescriptor& file, const std::string& path) {
  if (::fsync(file.get()) != 0) io_failure(path, "force to the disk");
  if (::close(file.release()) != 0) io_failure(path, "close");
}

void write_new_file(const std::string& path, std::string_view content) {
  FileDescriptor file = create_file(path);
  write_all(file, path, content.data(), content.size());
  sync_and_close(file, path);
}

void replace_file(const std::string& path, std::string_view content) {
  const std::string temporary = cat(path, ".tmp-", int64_t(::getpid()));
  ::unlink(temporary.c_str());  // left by a killed process that had the same number
  try {
    write_new_file(temporary, content);
    rename_path(temporary, path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_path(parent_folder(path));
}

void rename_path(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0)
    throw Error(Exit::io, cat(from, ": cannot rename to ", to, ": ", system_reason()));
}

void create_folders(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (fs::is_directory(path, error)) return;
  const std::string parent = parent_folder(path);
  if (parent != path) create_folders(parent);
  if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) io_failure(path, "create the folder");
  if (!fs::is_directory(path, error)) throw Error(Exit::io, cat(path, ": exists and is not a folder"));
  sync_path(parent);
}

std::string parent_folder(const std::string& path) {
  std::filesystem::path p(path);
  if (!p.has_filename() && p.has_relative_path()) p = p.parent_path();  // "a/b/" lies in "a"
  std::string parent = p.parent_path().string();
  if (parent.empty()) return p.is_absolute() ? "/" : ".";
  return parent;
}

std::string xxh3_of_bytes(const void* data, size_t bytes) { return hex(XXH3_128bits(data, bytes)); }

Xxh3::Xxh3() : state_(XXH3_createState()) {
  JAMBALAYA_CHECK(state_ != nullptr);
  XXH3_128bits_reset(static_cast<XXH3_state_t*>(state_));
}
Xxh3::~Xxh3() { XXH3_freeState(static_cast<XXH3_state_t*>(state_)); }
void Xxh3::add(const void* data, size_t bytes) {
  XXH3_128bits_update(static_cast<XXH3_state_t*>(state_), data, bytes);
}
std::string Xxh3::digest() const {
  return hex(XXH3_128bits_digest(static_cast<const XXH3_state_t*>(state_)));
}

std::string xxh3_of_file(const std::string& path, int64_t& bytes) {
  FileDescriptor file = open_regular_file(path, bytes);
  Xxh3 hash;
  std::vector<char> buffer(size_t(1) << 20);
  for (int64_t at = 0; at < bytes;) {
    const int64_t n = std::min<int64_t>(int64_t(buffer.size()), bytes - at);
    read_exactly(file, path, at, n, buffer.data());
    hash.add(buffer.data(), size_t(n));
    at += n;
  }
  return hash.digest();
}

std::string printable(std::string_view text, size_t limit) {
  std::string_view shown = text.substr(0, limit);
  // The cut may split a character, which is up to three bytes too many.
  for (int i = 0; i < 3 && shown.size() < text.size() && !valid_utf8(shown); i++) shown.remove_suffix(1);
  const bool utf8 = valid_utf8(shown);
  std::string out;
  for (char c : shown) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f || (byte >= 0x80 && !utf8)) {
      char escaped[5];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", unsigned(byte));
      out += escaped;
    } else {
      out += c;
    }
  }
  return shown.size() < text.size() ? out + "..." : out;
}

bool valid_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i]);
    if (lead < 0x80) {
      i++;
      continue;
    }
    const int extra = lead >= 0xf0 && lead <= 0xf4  ? 3
                      : lead >= 0xe0 && lead < 0xf0 ? 2
                      : lead >= 0xc2 && lead < 0xe0 ? 1
                                                    : 0;
    if (extra == 0 || i + size_t(extra) >= text.size()) return false;
    uint32_t point = lead & (0x3f >> extra);
    for (int k = 1; k <= extra; k++) {
      const auto byte = static_cast<unsigned char>(text[i + size_t(k)]);
      if ((byte & 0xc0) != 0x80) return false;
      point = point << 6 | (byte & 0x3f);
    }
    const uint32_t smallest[] = {0, 0x80, 0x800, 0x10000};
    if (point < smallest[extra] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) return false;
    i += size_t(extra) + 1;
  }
  return true;
}

}  // namespace jambalaya
