#include "kernels/error.h"

#include <charconv>

namespace jambalaya {

void detail::append(std::string& s, double v) {
  char buffer[32];
  auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, v);
  s.append(buffer, end);
}

void check_failed(const char* expression, const char* file, int line, const std::string& why) {
  throw std::logic_error(cat(file, ":", line, ": check failed: ", expression, why.empty() ? "" : ": ", why));
}

}  // namespace jambalaya
