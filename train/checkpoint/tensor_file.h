// The HDF5 file that one rank writes: a dataset of 32-bit floats per box. Every return code is checked; a
// checkpoint's files are opened only after their hashes were compared, because HDF5 neither notices flipped
// bits nor survives all of them.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "data/hdf5_file.h"

namespace jambalaya {

/// Writes one new file. Failures are Error(io) naming the file and HDF5's own reason (a full disk, ...).
class TensorFileWriter {
 public:
  explicit TensorFileWriter(const std::string& path);
  /// A contiguous dataset `dataset` with attributes name, global_shape and offset.
  void write(const std::string& dataset, const std::string& name, const std::vector<int64_t>& global_shape,
             const std::vector<int64_t>& offset, const std::vector<int64_t>& shape, const float* data);
  /// Closes and forces the file to the disk: a full disk may be told only here.
  void close();

 private:
  void check(bool ok, const std::string& what) const;
  void attribute(hid_t dataset, const char* name, const std::vector<int64_t>& values) const;
  std::string path_;
  Hdf5Id file_;
};

/// Reads boxes. Failures are Error(checkpoint) naming the file and the dataset.
class TensorFileReader {
 public:
  explicit TensorFileReader(const std::string& path);
  /// Copies the part of `dataset` (which must have the shape `stored_shape`) that starts at `from` and is
  /// `count` long into `out`, a packed array of shape `out_shape`, at `to`.
  void read(const std::string& dataset, const std::vector<int64_t>& stored_shape,
            const std::vector<int64_t>& from, const std::vector<int64_t>& count, float* out,
            const std::vector<int64_t>& out_shape, const std::vector<int64_t>& to);

 private:
  void check(bool ok, const std::string& what) const;
  std::string path_;
  Hdf5Id file_;
};

}  // namespace jambalaya
