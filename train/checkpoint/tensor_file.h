// The HDF5 file that one rank writes: a dataset of 32-bit floats per box. Every return code is checked; a
// checkpoint's files are opened only after their hashes were compared, because HDF5 neither notices flipped
// bits nor survives all of them.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/hdf5_file.h"
#include "train/checkpoint/box_values.h"

namespace jambalaya {

/// Writes one new file. Failures are Error(io) naming the file and HDF5's own reason (a full disk, ...).
class TensorFileWriter {
 public:
  explicit TensorFileWriter(const std::string& path);
  /// A contiguous dataset `dataset` with attributes name, global_shape and offset. `pieces` make up the box
  /// of that shape; values(piece) are those of one, packed, valid until the next is asked for.
  void write(const std::string& dataset, const std::string& name, const std::vector<int64_t>& global_shape,
             const std::vector<int64_t>& offset, const std::vector<int64_t>& shape,
             const std::vector<BoxPiece>& pieces, const std::function<const float*(const BoxPiece&)>& values);
  /// Closes and forces the file to the disk: a full disk may be told only here.
  void close();

 private:
  void check(bool ok, const std::string& what) const;
  void write_piece(hid_t dataset, const std::string& what, const BoxPiece& piece, const float* values) const;
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
