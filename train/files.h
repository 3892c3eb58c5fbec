// Files that must survive a crash: durable writes, exact reads, folders that are published whole.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace jambalaya {

/// An open file descriptor, closed at the end of its scope.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor();
  int get() const { return fd_; }
  int release();

 private:
  int fd_ = -1;
};

/// Opens a regular file for reading (a pipe or folder is refused) and tells its size. Error(bad_input)
/// otherwise.
FileDescriptor open_regular_file(const std::string& path, int64_t& bytes);
/// Reads exactly [offset, offset + bytes); a file that is shorter by now is Error(bad_input).
void read_exactly(const FileDescriptor& file, const std::string& path, int64_t offset, int64_t bytes,
                  void* out);
/// A whole regular file of at most `limit` bytes. Error(bad_input) when missing, larger or unreadable.
std::string read_small_file(const std::string& path, int64_t limit);
/// Writes all bytes at the descriptor's position. Error(io).
void write_all(const FileDescriptor& file, const std::string& path, const void* data, size_t bytes);

/// Creates `path` (which must not exist) for writing. Error(io).
FileDescriptor create_file(const std::string& path);
/// Forces a file's, or a folder's, content to the disk. Error(io).
void sync_path(const std::string& path);
/// Forces an open file to the disk and closes it. Error(io): a full disk may be told only here.
void sync_and_close(FileDescriptor& file, const std::string& path);
/// Writes a new file and forces it to the disk; its folder entry is not yet durable.
void write_new_file(const std::string& path, std::string_view content);
/// Replaces or creates a file: temporary file beside it, fsync, rename, fsync of the folder. A reader sees
/// the old content or the new one, never a mixture.
void replace_file(const std::string& path, std::string_view content);
/// Renames. Error(io).
void rename_path(const std::string& from, const std::string& to);
/// mkdir -p, and the new entries forced to the disk. Error(io).
void create_folders(const std::string& path);
/// The folder that a path lies in; "." when it names none.
std::string parent_folder(const std::string& path);
/// "No such file or directory" of the current errno.
std::string system_reason();

/// XXH3 of 128 bits as 32 hexadecimal digits.
std::string xxh3_of_bytes(const void* data, size_t bytes);
/// The same of bytes that come in pieces.
class Xxh3 {
 public:
  Xxh3();
  ~Xxh3();
  Xxh3(const Xxh3&) = delete;
  Xxh3& operator=(const Xxh3&) = delete;
  void add(const void* data, size_t bytes);
  std::string digest() const;

 private:
  void* state_;
};
std::string xxh3_of_file(const std::string& path, int64_t& bytes);

/// Text from outside made fit for a message: control characters and long tails are replaced.
std::string printable(std::string_view text, size_t limit = 120);
bool valid_utf8(std::string_view text);

}  // namespace jambalaya
