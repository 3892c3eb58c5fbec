// HDF5 with every return code checked. Only datasets and attributes of plain numbers and fixed-length strings
// in the root group: nothing here follows links, filters or variable-length types.
#pragma once
#include <hdf5.h>

#include <cstdint>
#include <string>
#include <vector>

namespace jambalaya {

/// Owns one HDF5 identifier. Closing can fail (a full disk shows up there): writers call close().
class Hdf5Id {
 public:
  using Close = herr_t (*)(hid_t);
  Hdf5Id(hid_t id, Close closer) : id_(id), close_(closer) {}
  ~Hdf5Id() {
    if (id_ >= 0) close_(id_);
  }
  Hdf5Id(Hdf5Id&& other) noexcept : id_(other.id_), close_(other.close_) { other.id_ = -1; }
  Hdf5Id& operator=(Hdf5Id&&) = delete;
  operator hid_t() const { return id_; }
  /// False when HDF5 reports a failure.
  bool close() {
    const hid_t id = id_;
    id_ = -1;
    return close_(id) >= 0;
  }

 private:
  hid_t id_;
  Close close_;
};

/// Must run before HDF5's first use: without it the library, after a write to a full disk, crashes at exit.
void prepare_hdf5();

/// Writes one file. All failures are Error(io) with the path; the caller removes the file.
class Hdf5Writer {
 public:
  /// `user_block` bytes at the start stay the caller's. Datasets of at least `align_from` bytes begin at a
  /// multiple of 4 KiB.
  Hdf5Writer(const std::string& path, uint64_t user_block, uint64_t align_from);
  /// A contiguous one-dimensional dataset; returns its place in the file. `type` is a native type, stored as
  /// `stored`.
  uint64_t dataset(const char* name, hid_t native, hid_t stored, const void* data, uint64_t count);
  void attribute(const char* name, int64_t value);
  void attribute(const char* name, uint64_t value);
  void attribute(const char* name, const std::string& value);
  void close();

 private:
  void check(bool ok, const char* what) const;
  void attribute_of(const char* name, hid_t native, hid_t stored, const void* value);
  std::string path_;
  Hdf5Id file_;
};

/// Reads one file strictly. All failures are Error(bad_input) with the path and the name of what is wrong.
class Hdf5Reader {
 public:
  explicit Hdf5Reader(const std::string& path);

  struct Place {
    uint64_t offset = 0, count = 0;
    size_t width = 0;  ///< bytes of an element
  };
  /// A contiguous one-dimensional dataset of unsigned integers, to be mapped.
  Place place(const char* name);
  std::vector<uint64_t> u64(const char* name);
  std::vector<uint32_t> u32(const char* name);
  std::string bytes(const char* name);
  int64_t integer(const char* name);
  uint64_t natural(const char* name);
  std::string text(const char* name);

 private:
  [[noreturn]] void wrong(const char* name, const char* why) const;
  Hdf5Id open_dataset(const char* name, size_t width, Place* place);
  void read(const char* name, hid_t native, void* to, const Hdf5Id& dataset);
  Hdf5Id open_attribute(const char* name, H5T_class_t kind);
  void read_number(const char* name, hid_t native, void* to);
  std::string path_;
  uint64_t file_bytes_;
  Hdf5Id file_;
};

}  // namespace jambalaya
