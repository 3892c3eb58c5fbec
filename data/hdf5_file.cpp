#include "data/hdf5_file.h"

#include <filesystem>
#include <mutex>

#include "kernels/error.h"

namespace jambalaya {

namespace {

/// A file access list: the format of HDF5 1.8, which every reader knows, and no file locks (they fail on many
/// network file systems, and files are published by renaming, never changed).
Hdf5Id access_list(uint64_t align_from) {
  Hdf5Id list(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  bool ok = list >= 0 && H5Pset_libver_bounds(list, H5F_LIBVER_V18, H5F_LIBVER_V18) >= 0;
  ok = ok && H5Pset_file_locking(list, false, true) >= 0;
  ok = ok && (align_from == 0 || H5Pset_alignment(list, align_from, 4096) >= 0);
  ok = ok && H5Pset_fclose_degree(list, H5F_CLOSE_STRONG) >= 0;
  JAMBALAYA_CHECK(ok, "HDF5 refuses a file access list");
  return list;
}

hid_t create(const std::string& path, uint64_t user_block, uint64_t align_from) {
  prepare_hdf5();
  Hdf5Id access = access_list(align_from);
  Hdf5Id creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  bool ok = creation >= 0 && H5Pset_userblock(creation, user_block) >= 0 &&
            H5Pset_obj_track_times(creation, false) >= 0;
  JAMBALAYA_CHECK(ok, "HDF5 refuses a file creation list");
  return H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation, access);
}

hid_t open(const std::string& path) {
  prepare_hdf5();
  return H5Fopen(path.c_str(), H5F_ACC_RDONLY, access_list(0));
}

}  // namespace

void prepare_hdf5() {
  static std::once_flag once;
  std::call_once(once, [] {
    const bool ok = H5dont_atexit() >= 0 && H5open() >= 0;
    JAMBALAYA_CHECK(ok, "HDF5 does not start");
  });
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // failures become our messages; the setting is per thread
}

Hdf5Writer::Hdf5Writer(const std::string& path, uint64_t user_block, uint64_t align_from)
    : path_(path), file_(create(path, user_block, align_from), H5Fclose) {
  check(file_ >= 0, "creating the file");
}

void Hdf5Writer::check(bool ok, const char* what) const {
  if (!ok) throw Error(Exit::io, cat(path_, ": ", what, " failed (disk full, or no permission?)"));
}

uint64_t Hdf5Writer::dataset(const char* name, hid_t native, hid_t stored, const void* data, uint64_t count) {
  const hsize_t extent = count;
  Hdf5Id space(H5Screate_simple(1, &extent, nullptr), H5Sclose);
  Hdf5Id list(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  bool ok = space >= 0 && list >= 0 && H5Pset_layout(list, H5D_CONTIGUOUS) >= 0;
  ok = ok && H5Pset_obj_track_times(list, false) >= 0 && H5Pset_alloc_time(list, H5D_ALLOC_TIME_EARLY) >= 0;
  ok = ok && H5Pset_fill_time(list, H5D_FILL_TIME_NEVER) >= 0;  // every element is written below
  check(ok, name);
  Hdf5Id set(H5Dcreate2(file_, name, stored, space, H5P_DEFAULT, list, H5P_DEFAULT), H5Dclose);
  check(set >= 0, name);
  check(count == 0 || H5Dwrite(set, native, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0, name);
  const haddr_t offset = count == 0 ? 0 : H5Dget_offset(set);
  check(offset != HADDR_UNDEF, name);
  check(set.close(), name);
  return offset;
}

void Hdf5Writer::attribute_of(const char* name, hid_t native, hid_t stored, const void* value) {
  Hdf5Id space(H5Screate(H5S_SCALAR), H5Sclose);
  check(space >= 0, name);
  Hdf5Id attribute(H5Acreate2(file_, name, stored, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  check(attribute >= 0 && H5Awrite(attribute, native, value) >= 0, name);
  check(attribute.close(), name);
}

void Hdf5Writer::attribute(const char* name, int64_t value) {
  attribute_of(name, H5T_NATIVE_INT64, H5T_STD_I64LE, &value);
}
void Hdf5Writer::attribute(const char* name, uint64_t value) {
  attribute_of(name, H5T_NATIVE_UINT64, H5T_STD_U64LE, &value);
}
void Hdf5Writer::attribute(const char* name, const std::string& value) {
  Hdf5Id type(H5Tcopy(H5T_C_S1), H5Tclose);
  check(type >= 0 && H5Tset_size(type, value.size() + 1) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0, name);
  attribute_of(name, type, type, value.c_str());
}

void Hdf5Writer::close() {
  // A failed write may show up only in the flush or the close, and the close may even hide what the flush
  // said.
  const bool flushed = H5Fflush(file_, H5F_SCOPE_GLOBAL) >= 0;
  const bool closed = file_.close();
  check(flushed && closed, "writing the file");
}

Hdf5Reader::Hdf5Reader(const std::string& path)
    : path_(path), file_bytes_(std::filesystem::file_size(path)), file_(open(path), H5Fclose) {
  if (file_ < 0) throw Error(Exit::bad_input, cat(path, ": not an HDF5 file"));
}

void Hdf5Reader::wrong(const char* name, const char* why) const {
  throw Error(Exit::bad_input, cat(path_, ": '", name, "' ", why));
}

Hdf5Id Hdf5Reader::open_dataset(const char* name, size_t width, Place* place) {
  Hdf5Id set(H5Dopen2(file_, name, H5P_DEFAULT), H5Dclose);
  if (set < 0) wrong(name, "is missing");
  Hdf5Id type(H5Dget_type(set), H5Tclose);
  Hdf5Id space(H5Dget_space(set), H5Sclose);
  Hdf5Id list(H5Dget_create_plist(set), H5Pclose);
  if (type < 0 || space < 0 || list < 0) wrong(name, "cannot be read");
  place->width = H5Tget_size(type);
  const bool unsigned_le = H5Tget_class(type) == H5T_INTEGER && H5Tget_sign(type) == H5T_SGN_NONE &&
                           H5Tget_order(type) != H5T_ORDER_BE;
  if (!unsigned_le || (width != 0 && place->width != width)) wrong(name, "has the wrong type");
  hsize_t extent = 0;
  if (H5Sget_simple_extent_ndims(space) != 1 || H5Sget_simple_extent_dims(space, &extent, nullptr) != 1)
    wrong(name, "has the wrong shape");
  if (H5Pget_layout(list) != H5D_CONTIGUOUS || H5Pget_external_count(list) != 0)
    wrong(name, "is not stored in one piece");
  place->count = extent;
  place->offset = extent == 0 ? 0 : H5Dget_offset(set);
  // Counts are compared with the bytes that are there before anything is allocated.
  if (place->offset > file_bytes_ || extent > (file_bytes_ - place->offset) / place->width)
    wrong(name, "is longer than the file");
  return set;
}

void Hdf5Reader::read(const char* name, hid_t native, void* to, const Hdf5Id& dataset) {
  if (H5Dread(dataset, native, H5S_ALL, H5S_ALL, H5P_DEFAULT, to) < 0) wrong(name, "cannot be read");
}

Hdf5Reader::Place Hdf5Reader::place(const char* name) {
  Place place;
  open_dataset(name, 0, &place);
  return place;
}

std::vector<uint64_t> Hdf5Reader::u64(const char* name) {
  Place place;
  Hdf5Id set = open_dataset(name, 8, &place);
  std::vector<uint64_t> values(place.count);
  if (place.count > 0) read(name, H5T_NATIVE_UINT64, values.data(), set);
  return values;
}

std::vector<uint32_t> Hdf5Reader::u32(const char* name) {
  Place place;
  Hdf5Id set = open_dataset(name, 4, &place);
  std::vector<uint32_t> values(place.count);
  if (place.count > 0) read(name, H5T_NATIVE_UINT32, values.data(), set);
  return values;
}

std::string Hdf5Reader::bytes(const char* name) {
  Place place;
  Hdf5Id set = open_dataset(name, 1, &place);
  std::string value(place.count, '\0');
  if (place.count > 0) read(name, H5T_NATIVE_UINT8, value.data(), set);
  return value;
}

Hdf5Id Hdf5Reader::open_attribute(const char* name, H5T_class_t kind) {
  Hdf5Id attribute(H5Aopen(file_, name, H5P_DEFAULT), H5Aclose);
  if (attribute < 0) wrong(name, "is missing");
  Hdf5Id type(H5Aget_type(attribute), H5Tclose);
  Hdf5Id space(H5Aget_space(attribute), H5Sclose);
  if (type < 0 || space < 0 || H5Tget_class(type) != kind || H5Sget_simple_extent_type(space) != H5S_SCALAR)
    wrong(name, "has the wrong type");
  return attribute;
}

void Hdf5Reader::read_number(const char* name, hid_t native, void* to) {
  Hdf5Id attribute = open_attribute(name, H5T_INTEGER);
  if (H5Aread(attribute, native, to) < 0) wrong(name, "cannot be read");
}

int64_t Hdf5Reader::integer(const char* name) {
  int64_t value = 0;
  read_number(name, H5T_NATIVE_INT64, &value);
  return value;
}

uint64_t Hdf5Reader::natural(const char* name) {
  uint64_t value = 0;
  read_number(name, H5T_NATIVE_UINT64, &value);
  return value;
}

std::string Hdf5Reader::text(const char* name) {
  Hdf5Id attribute = open_attribute(name, H5T_STRING);
  Hdf5Id type(H5Aget_type(attribute), H5Tclose);
  const size_t size = type < 0 ? 0 : H5Tget_size(type);
  if (size == 0 || size > 4096 || H5Tis_variable_str(type) != 0) wrong(name, "has the wrong type");
  std::string value(size, '\0');
  if (H5Aread(attribute, type, value.data()) < 0) wrong(name, "cannot be read");
  value.resize(value.find('\0') == std::string::npos ? size : value.find('\0'));
  return value;
}

}  // namespace jambalaya
