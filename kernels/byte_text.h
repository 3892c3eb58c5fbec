// Amounts of memory for people.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>

#include "kernels/error.h"

namespace jambalaya {

/// "7.1 GiB", below that "133 MiB", below that "256 KiB"; only 0 is "0 KiB".
inline std::string byte_text(int64_t bytes) {
  if (bytes >= int64_t(1) << 30) return cat(std::round(double(bytes) / 0x1p30 * 10) / 10, " GiB");
  if (bytes >= int64_t(1) << 20) return cat(bytes >> 20, " MiB");
  return cat((bytes + 1023) >> 10, " KiB");
}

}  // namespace jambalaya
