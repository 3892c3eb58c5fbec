#include "train/checkpoint/tensor_file.h"

#include "kernels/error.h"
#include "train/files.h"

namespace jambalaya {
namespace {

std::vector<hsize_t> extents(const std::vector<int64_t>& shape) { return {shape.begin(), shape.end()}; }

/// HDF5's description of the innermost failure, which names the system's reason.
std::string hdf5_reason() {
  std::string reason;
  const auto keep_first = [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
    auto& text = *static_cast<std::string*>(out);
    if (text.empty() && error->desc) text = error->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &reason);
  return reason.empty() ? "unknown reason" : printable(reason, 300);
}

Hdf5Id access_list() {
  Hdf5Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  bool ok = access >= 0 && H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0;
  ok = ok && H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0;
#if H5_VERSION_GE(1, 10, 7)
  // Files are written once under a temporary name; locks would only fail on network file systems.
  ok = ok && H5Pset_file_locking(access, false, true) >= 0;
#endif
  JAMBALAYA_CHECK(ok, "HDF5 refuses a file access list");
  return access;
}

// The reason of a failure is asked for before the access list is closed: that call forgets it.
hid_t create(const std::string& path) {
  prepare_hdf5();
  const Hdf5Id access = access_list();
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, access);
  if (file < 0) throw Error(Exit::io, cat(path, ": the file cannot be created: ", hdf5_reason()));
  return file;
}

hid_t open(const std::string& path) {
  prepare_hdf5();
  const Hdf5Id access = access_list();
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access);
  if (file < 0) throw Error(Exit::checkpoint, cat(path, ": the file cannot be opened: ", hdf5_reason()));
  return file;
}

}  // namespace

TensorFileWriter::TensorFileWriter(const std::string& path) : path_(path), file_(create(path), H5Fclose) {}

void TensorFileWriter::check(bool ok, const std::string& what) const {
  if (!ok) throw Error(Exit::io, cat(path_, ": ", what, ": ", hdf5_reason()));
}

void TensorFileWriter::attribute(hid_t dataset, const char* name, const std::vector<int64_t>& values) const {
  const hsize_t extent = values.size();
  Hdf5Id space(H5Screate_simple(1, &extent, nullptr), H5Sclose);
  check(space >= 0, name);
  Hdf5Id id(H5Acreate2(dataset, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  check(id >= 0 && H5Awrite(id, H5T_NATIVE_INT64, values.data()) >= 0 && id.close(), name);
}

void TensorFileWriter::write_piece(hid_t set, const std::string& what, const BoxPiece& piece,
                                   const float* values) const {
  const auto start = extents(piece.from), count = extents(piece.count);
  Hdf5Id space(H5Dget_space(set), H5Sclose);
  Hdf5Id memory(H5Screate_simple(int(count.size()), count.data(), nullptr), H5Sclose);
  check(space >= 0 && memory >= 0, what);
  check(H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr) >= 0, what);
  check(H5Dwrite(set, H5T_NATIVE_FLOAT, memory, space, H5P_DEFAULT, values) >= 0, what);
}

void TensorFileWriter::write(const std::string& dataset, const std::string& name,
                             const std::vector<int64_t>& global_shape, const std::vector<int64_t>& offset,
                             const std::vector<int64_t>& shape, const std::vector<BoxPiece>& pieces,
                             const std::function<const float*(const BoxPiece&)>& values) {
  const auto size = extents(shape);
  Hdf5Id space(H5Screate_simple(int(size.size()), size.data(), nullptr), H5Sclose);
  Hdf5Id list(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  Hdf5Id links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  bool ok = space >= 0 && list >= 0 && links >= 0 && H5Pset_create_intermediate_group(links, 1) >= 0;
  ok = ok && H5Pset_layout(list, H5D_CONTIGUOUS) >= 0 && H5Pset_obj_track_times(list, false) >= 0;
  ok = ok && H5Pset_fill_time(list, H5D_FILL_TIME_NEVER) >= 0;  // every element is written below
  check(ok, dataset);
  Hdf5Id set(H5Dcreate2(file_, dataset.c_str(), H5T_IEEE_F32LE, space, links, list, H5P_DEFAULT), H5Dclose);
  check(set >= 0, dataset);
  for (const BoxPiece& piece : pieces) write_piece(set, dataset, piece, values(piece));
  attribute(set, "global_shape", global_shape);
  attribute(set, "offset", offset);
  Hdf5Id text(H5Tcopy(H5T_C_S1), H5Tclose);
  Hdf5Id scalar(H5Screate(H5S_SCALAR), H5Sclose);
  check(text >= 0 && scalar >= 0 && H5Tset_size(text, name.size() + 1) >= 0, dataset);
  Hdf5Id id(H5Acreate2(set, "name", text, scalar, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  check(id >= 0 && H5Awrite(id, text, name.c_str()) >= 0 && id.close(), dataset);
  check(set.close(), dataset);
}

void TensorFileWriter::close() {
  check(H5Fflush(file_, H5F_SCOPE_LOCAL) >= 0, "flushing failed");
  check(file_.close(), "closing failed");
  sync_path(path_);
}

TensorFileReader::TensorFileReader(const std::string& path) : path_(path), file_(open(path), H5Fclose) {}

void TensorFileReader::check(bool ok, const std::string& what) const {
  if (!ok) throw Error(Exit::checkpoint, cat(path_, ": ", what, ": ", hdf5_reason()));
}

void TensorFileReader::read(const std::string& dataset, const std::vector<int64_t>& stored_shape,
                            const std::vector<int64_t>& from, const std::vector<int64_t>& count, float* out,
                            const std::vector<int64_t>& out_shape, const std::vector<int64_t>& to) {
  Hdf5Id set(H5Dopen2(file_, dataset.c_str(), H5P_DEFAULT), H5Dclose);
  check(set >= 0, dataset);
  Hdf5Id type(H5Dget_type(set), H5Tclose);
  Hdf5Id space(H5Dget_space(set), H5Sclose);
  check(type >= 0 && space >= 0, dataset);
  const auto expected = extents(stored_shape);
  std::vector<hsize_t> found(expected.size());
  const bool same_rank = H5Sget_simple_extent_ndims(space) == int(expected.size());
  const bool same = same_rank && H5Sget_simple_extent_dims(space, found.data(), nullptr) >= 0 &&
                    found == expected && H5Tequal(type, H5T_IEEE_F32LE) > 0;
  if (!same)
    throw Error(Exit::checkpoint,
                cat(path_, ": ", dataset, ": not the floats of the shape that the manifest states"));
  const auto size = extents(out_shape), start = extents(from), target = extents(to), part = extents(count);
  Hdf5Id memory(H5Screate_simple(int(size.size()), size.data(), nullptr), H5Sclose);
  check(memory >= 0, dataset);
  check(H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, part.data(), nullptr) >= 0,
        dataset);
  check(H5Sselect_hyperslab(memory, H5S_SELECT_SET, target.data(), nullptr, part.data(), nullptr) >= 0,
        dataset);
  check(H5Dread(set, H5T_NATIVE_FLOAT, memory, space, H5P_DEFAULT, out) >= 0, dataset);
}

}  // namespace jambalaya
