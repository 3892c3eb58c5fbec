#include "data/file_io.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>

#include "kernels/error.h"

namespace jambalaya {

namespace {

/// Closes a file descriptor at the end of a scope.
struct Descriptor {
  int fd = -1;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

[[noreturn]] void io_failed(const std::string& temporary, const std::string& path, const char* call) {
  const int error = errno;
  ::unlink(temporary.c_str());
  throw Error(Exit::io, cat(path, ": ", call, " failed: ", std::strerror(error), "; nothing was published"));
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  struct stat status {};
  if (file.fd < 0 || ::fstat(file.fd, &status) != 0)
    throw Error(Exit::bad_input, cat(path, ": cannot be opened: ", std::strerror(errno)));
  if (!S_ISREG(status.st_mode)) throw Error(Exit::bad_input, cat(path, ": not a regular file"));
  size_ = size_t(status.st_size);
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.fd, 0);
  if (address == MAP_FAILED) throw Error(Exit::io, cat(path, ": cannot be mapped: ", std::strerror(errno)));
  data_ = static_cast<const uint8_t*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<uint8_t*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

std::string xxh3_hex(std::string_view first, std::string_view second) {
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  JAMBALAYA_CHECK(state != nullptr);
  bool ok = XXH3_128bits_reset(state.get()) == XXH_OK;
  ok = ok && XXH3_128bits_update(state.get(), first.data(), first.size()) == XXH_OK;
  ok = ok && (second.empty() || XXH3_128bits_update(state.get(), second.data(), second.size()) == XXH_OK);
  JAMBALAYA_CHECK(ok);
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state.get()));
  static constexpr char digits[] = "0123456789abcdef";
  std::string hex;
  for (unsigned char byte : canonical.digest) hex += {digits[byte >> 4], digits[byte & 15]};
  return hex;
}

uint64_t xxh3_64(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

std::string temporary_name(const std::string& path) { return cat(path, ".tmp-", int64_t(::getpid())); }

void publish_file(const std::string& temporary, const std::string& path) {
  {
    Descriptor file{::open(temporary.c_str(), O_RDONLY | O_CLOEXEC)};
    if (file.fd < 0 || ::fsync(file.fd) != 0) io_failed(temporary, path, "fsync");
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) io_failed(temporary, path, "rename");
  // The new name is on disk only once the folder is.
  std::string folder = std::filesystem::path(path).parent_path().string();
  Descriptor directory{::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (directory.fd < 0 || ::fsync(directory.fd) != 0)
    throw Error(Exit::io, cat(path, ": fsync of its folder failed: ", std::strerror(errno)));
}

void write_file_atomically(const std::string& path, std::string_view content) {
  const std::string temporary = temporary_name(path);
  {
    Descriptor file{::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
    if (file.fd < 0) io_failed(temporary, path, "creating the file");
    for (size_t done = 0; done < content.size();) {
      ssize_t n = ::write(file.fd, content.data() + done, content.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) io_failed(temporary, path, "write");
      done += size_t(n);
    }
  }
  publish_file(temporary, path);
}

}  // namespace jambalaya
