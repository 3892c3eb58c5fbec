#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <tuple>

#include "kernels/tensor.h"
#include "train/interop/safetensors.h"
#include "train/json.h"

namespace jambalaya {
namespace {

/// The header's text: compact, as the reference writes it, so that equal weights give equal files.
std::string header_of(const std::vector<const TensorSource*>& order) {
  std::string text = R"({"__metadata__":{"format":"pt"})";
  int64_t at = 0;
  for (const TensorSource* tensor : order) {
    text += cat(",", Json(tensor->name).text(), R"(:{"dtype":")", name_of(tensor->type), R"(","shape":[)");
    for (size_t i = 0; i < tensor->shape.size(); i++) text += cat(i ? "," : "", tensor->shape[i]);
    text += cat(R"(],"data_offsets":[)", at, ",", at + tensor->bytes(), "]}");
    at += tensor->bytes();
  }
  text += '}';
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

void write_data(const FileDescriptor& file, const std::string& path, const TensorSource& tensor) {
  constexpr int64_t chunk = 1 << 18;
  const int64_t total = tensor.bytes() * 8 / bits_of(tensor.type);
  std::vector<float> values(size_t(std::min(chunk, total)));
  std::vector<bf16> halves(tensor.type == SafeType::bf16 ? values.size() : 0);
  for (int64_t first = 0; first < total; first += chunk) {
    const int64_t n = std::min(chunk, total - first);
    tensor.fill(first, n, values.data());
    if (tensor.type == SafeType::f32) {
      write_all(file, path, values.data(), size_t(n) * sizeof(float));
    } else {
      std::transform(values.begin(), values.begin() + n, halves.begin(), to_bf16);
      write_all(file, path, halves.data(), size_t(n) * sizeof(bf16));
    }
  }
}

}  // namespace

int64_t TensorSource::bytes() const {
  int64_t n = bits_of(type) / 8;
  for (int64_t d : shape) n *= d;
  return n;
}

void write_safetensors(const std::string& path, const std::vector<TensorSource>& tensors) {
  static_assert(std::endian::native == std::endian::little, "data is written as it lies in memory");
  std::vector<const TensorSource*> order;
  for (const TensorSource& tensor : tensors) {
    JAMBALAYA_CHECK(tensor.type == SafeType::f32 || tensor.type == SafeType::bf16, tensor.name);
    order.push_back(&tensor);
  }
  std::sort(order.begin(), order.end(), [](const TensorSource* a, const TensorSource* b) {
    return std::tie(b->type, a->name) < std::tie(a->type, b->name);  // wide elements first, then by name
  });
  const std::string header = header_of(order);
  const uint64_t length = header.size();
  FileDescriptor file = create_file(path);
  try {
    write_all(file, path, &length, sizeof length);
    write_all(file, path, header.data(), header.size());
    for (const TensorSource* tensor : order) write_data(file, path, *tensor);
    sync_and_close(file, path);
  } catch (...) {
    ::unlink(path.c_str());
    throw;
  }
}

}  // namespace jambalaya
