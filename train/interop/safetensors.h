// The safetensors container, read strictly and written durably.
//   u64 header length N | N bytes of JSON {name: {dtype, shape, data_offsets}} | data, packed, little endian
// Every number in a header is untrusted: it is compared with the file's size before anything is allocated
// from it, and data is read with pread, so that a file that shrinks meanwhile is an error and not a signal.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "train/files.h"

namespace jambalaya {

/// The format's element types in its own order; the order decides how the reference writer sorts tensors.
enum class SafeType : uint8_t {
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64
};
const char* name_of(SafeType type);  ///< "F32", "BF16", ...
int64_t bits_of(SafeType type);

struct SafeTensor {
  std::string name;
  SafeType type = SafeType::f32;
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;  ///< bytes, from the start of the data
  int64_t numel() const;
  std::string describe() const;  ///< "F32 [256, 32]"
};

/// A file whose header passed every check. Each rule that a file breaks is Error(bad_input) "file: tensor:
/// rule".
class SafeTensorsFile {
 public:
  explicit SafeTensorsFile(std::string path);

  const std::string& path() const { return path_; }
  /// In the order of their data.
  const std::vector<SafeTensor>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const SafeTensor* find(const std::string& name) const;  ///< null when there is none

  /// Elements [first, first + count) in row-major order as f32. Error(bad_input) for types without such a
  /// meaning (f4, f6, f8, complex).
  void read_f32(const SafeTensor& tensor, int64_t first, int64_t count, float* out) const;
  std::vector<float> read_f32(const SafeTensor& tensor) const;
  /// All elements as i64; integers and booleans only.
  std::vector<int64_t> read_i64(const SafeTensor& tensor) const;
  /// All elements as f64: any type that read_f32 takes, and f64 without loss.
  std::vector<double> read_f64(const SafeTensor& tensor) const;

 private:
  std::vector<char> read_bytes(const SafeTensor& tensor, int64_t first, int64_t count) const;
  std::string path_;
  FileDescriptor file_;
  int64_t data_at_ = 0;
  std::vector<SafeTensor> tensors_;
  std::map<std::string, size_t> by_name_;
  std::map<std::string, std::string> metadata_;
};

/// The weights of a folder: model.safetensors, or the shards that model.safetensors.index.json names.
class SafeTensorsFolder {
 public:
  explicit SafeTensorsFolder(const std::string& folder);

  struct Entry {
    const SafeTensorsFile* file;
    const SafeTensor* tensor;
  };
  /// By name.
  const std::map<std::string, Entry>& entries() const { return entries_; }
  const std::vector<SafeTensorsFile>& files() const { return files_; }

 private:
  void add_shards(const std::string& folder, const std::string& index_path);
  std::vector<SafeTensorsFile> files_;
  std::map<std::string, Entry> entries_;
};
/// True when the folder holds model.safetensors or its index.
bool holds_safetensors(const std::string& folder);

/// A tensor to be written as f32 or bf16: `fill` gives elements [first, first + count) as f32.
struct TensorSource {
  std::string name;
  SafeType type = SafeType::f32;
  std::vector<int64_t> shape;
  std::function<void(int64_t first, int64_t count, float* out)> fill;
  int64_t bytes() const;
};
/// Writes one new file as the reference writer does (by falling alignment, then by name; header padded to 8
/// bytes; metadata format = pt) and forces it to the disk. Error(io); an unfinished file is removed.
void write_safetensors(const std::string& path, const std::vector<TensorSource>& tensors);

/// Writes `tensors` into `folder`: model.safetensors, or shards of at most `max_shard_bytes` filled greedily
/// in the order given (a tensor is never split) and their index. Returns the names of the files.
std::vector<std::string> write_safetensors_folder(const std::string& folder,
                                                  const std::vector<TensorSource>& tensors,
                                                  int64_t max_shard_bytes);

}  // namespace jambalaya
