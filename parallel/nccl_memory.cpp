#include "parallel/nccl_memory.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>

namespace jambalaya {

namespace {

/// The variable's number where it is a positive one, else `otherwise`.
int64_t positive(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  if (!text) return otherwise;
  int64_t value = 0;
  const auto read = std::from_chars(text, text + std::strlen(text), value);
  return read.ec == std::errc() && value > 0 ? value : otherwise;
}

}  // namespace

NcclBuffers nccl_buffers() {
  constexpr int64_t kMany = 1 << 20;
  const int64_t asked = std::min(positive("NCCL_MAX_NCHANNELS", kMany), positive("NCCL_MAX_CTAS", kMany));
  const NcclBuffers usual;
  // A limit above what is usual does not make NCCL take more.
  return {.channels = std::min(asked, usual.channels), .bytes = positive("NCCL_BUFFSIZE", usual.bytes)};
}

int64_t nccl_buffer_bytes(int communicators) {
  const NcclBuffers one = nccl_buffers();
  return communicators * one.channels * one.bytes;
}

}  // namespace jambalaya
