// Loading: verify first, then read any boxes from any boxes.
#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>

#include "train/checkpoint/checkpoint.h"
#include "train/checkpoint/manifest.h"
#include "train/checkpoint/tensor_file.h"
#include "train/files.h"

namespace jambalaya {
namespace {

namespace fs = std::filesystem;
constexpr int64_t manifest_limit = int64_t(1) << 30;

std::string inside(const std::string& folder, const std::string& name) {
  return (fs::path(folder) / name).string();
}

/// Errors of reading become errors of the checkpoint.
template <class Work>
auto as_checkpoint_error(const Work& work) {
  try {
    return work();
  } catch (const Error& e) {
    throw Error(Exit::checkpoint, e.what());
  }
}

void verify_file(const std::string& folder, const CheckpointInfo::StoredFile& file, bool verify_hash) {
  const std::string path = inside(folder, file.name);
  as_checkpoint_error([&] {
    int64_t bytes = 0;
    open_regular_file(path, bytes);
    if (bytes != file.bytes)
      throw Error(Exit::checkpoint, cat(path, ": ", bytes, " bytes, but the manifest states ", file.bytes));
    if (verify_hash && xxh3_of_file(path, bytes) != file.hash)
      throw Error(Exit::checkpoint, cat(path, ": damaged: its hash is not the one in the manifest"));
  });
}

struct Part {
  const CheckpointInfo::StoredBox* stored;
  Box* wanted;
  std::vector<int64_t> from, to, count;  ///< in the stored box, in the wanted one, length
  /// All of the stored box, and all of the wanted one.
  bool whole() const {
    const Tensor& local = wanted->local;
    return count == stored->shape && std::equal(count.begin(), count.end(), local.shape.begin());
  }
};

/// Where a stored and a wanted box meet; false when they do not.
bool intersect(const CheckpointInfo::StoredBox& stored, Box& wanted, Part& part) {
  part = {&stored, &wanted, {}, {}, {}};
  for (size_t d = 0; d < stored.shape.size(); d++) {
    const int64_t begin = std::max(stored.offset[d], wanted.offset[d]);
    const int64_t end =
        std::min(stored.offset[d] + stored.shape[d], wanted.offset[d] + wanted.local.shape[d]);
    if (begin >= end) return false;
    part.from.push_back(begin - stored.offset[d]);
    part.to.push_back(begin - wanted.offset[d]);
    part.count.push_back(end - begin);
  }
  return true;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); i++) text += cat(i ? ", " : "", shape[i]);
  return text + "]";
}

void check_wanted(const CheckpointInfo& info, const CheckpointInfo::Stored& stored, const Box& box) {
  if (stored.global_shape != box.global_shape)
    throw Error(Exit::checkpoint,
                cat(info.path, ": tensor ", box.name, " is ", shape_text(stored.global_shape), " there, but ",
                    shape_text(box.global_shape), " here: the checkpoint is of another model"));
  const size_t rank = box.global_shape.size();
  JAMBALAYA_CHECK(size_t(box.local.rank) == rank && box.offset.size() == rank &&
                      box.local.dtype == DType::f32 && box.local.packed(),
                  box.name);
  for (size_t d = 0; d < rank; d++)
    JAMBALAYA_CHECK(box.offset[d] >= 0 && box.offset[d] + box.local.shape[d] <= box.global_shape[d],
                    box.name);
}

std::vector<int64_t> sum_of(std::vector<int64_t> a, const std::vector<int64_t>& b) {
  for (size_t d = 0; d < a.size(); d++) a[d] += b[d];
  return a;
}

/// Into device memory, through the host a piece at a time; the hash of what was read, in the part's order.
std::string read_to_device(TensorFileReader& reader, const Part& part, PieceMemory& staging) {
  const Box& box = *part.wanted;
  const Context ctx = transfer_context(box.accelerator);
  Xxh3 hash;
  for (const BoxPiece& piece : pieces_of_box(part.count, PieceMemory::kElements)) {
    reader.read(part.stored->dataset, part.stored->shape, sum_of(part.from, piece.from), piece.count,
                staging.data(), piece.count, std::vector<int64_t>(piece.count.size(), 0));
    hash.add(staging.data(), size_t(piece.elements()) * sizeof(float));
    copy_into_box(ctx, staging.data(), {sum_of(part.to, piece.from), piece.count}, box.local);
    synchronize(ctx);  // the next piece takes the same memory
  }
  return hash.digest();
}

std::string read_to_host(TensorFileReader& reader, const Part& part) {
  const Tensor& local = part.wanted->local;
  reader.read(part.stored->dataset, part.stored->shape, part.from, part.count, local.ptr<float>(),
              {local.shape.begin(), local.shape.begin() + local.rank}, part.to);
  return part.whole() ? xxh3_of_bytes(local.data, size_t(local.bytes())) : "";
}

void read_part(const CheckpointInfo& info, TensorFileReader& reader, const Part& part,
               std::optional<PieceMemory>& staging) {
  if (part.wanted->accelerator && !staging) staging.emplace(part.wanted->accelerator);
  const std::string hash =
      part.wanted->accelerator ? read_to_device(reader, part, *staging) : read_to_host(reader, part);
  // A box that is read whole is compared with its own hash: what HDF5 gave is what was saved.
  if (part.whole() && hash != part.stored->hash)
    throw Error(Exit::checkpoint,
                cat(inside(info.path, info.files[size_t(part.stored->file)].name), ": ", part.stored->dataset,
                    ": damaged: its hash is not the one in the manifest"));
}

}  // namespace

CheckpointInfo open_checkpoint(const std::string& path, bool verify_hashes) {
  const std::string manifest = inside(path, manifest_name);
  CheckpointInfo info = as_checkpoint_error(
      [&] { return parse_checkpoint_manifest(read_small_file(manifest, manifest_limit), manifest); });
  info.path = path;
  if (const int64_t step = step_of(folder_name(path)); step >= 0 && step != info.state.step)
    throw Error(Exit::checkpoint,
                cat(manifest, ": of step ", info.state.step, ", but the folder is named for step ", step));
  for (const auto& file : info.files) verify_file(path, file, verify_hashes);
  const auto text = [&](const char* name) -> std::string {
    for (const auto& file : info.files)
      if (file.name == name)
        return as_checkpoint_error([&] { return read_small_file(inside(path, name), manifest_limit); });
    return "";
  };
  info.state.config_yaml = text(config_file_name);
  info.state.tokenizer_json = text(tokenizer_file_name);
  return info;
}

void read_boxes(const CheckpointInfo& info, std::vector<Box>& boxes) {
  std::map<std::string_view, const CheckpointInfo::Stored*> by_name;
  for (const auto& tensor : info.tensors) by_name[tensor.name] = &tensor;
  std::map<int, std::vector<Part>> parts_of;  // by file, so that each is opened once
  for (Box& box : boxes) {
    const auto found = by_name.find(box.name);
    if (found == by_name.end())
      throw Error(Exit::checkpoint, cat(info.path, ": tensor ", box.name, " is not in this checkpoint"));
    check_wanted(info, *found->second, box);
    Part part;
    for (const auto& stored : found->second->boxes)
      if (intersect(stored, box, part)) parts_of[stored.file].push_back(part);
  }
  std::optional<PieceMemory> staging;
  for (const auto& [file, parts] : parts_of) {
    TensorFileReader reader(inside(info.path, info.files[size_t(file)].name));
    for (const Part& part : parts) read_part(info, reader, part, staging);
  }
}

}  // namespace jambalaya
