// The admissible range of every number in ModelConfig, in one place: problems() checks it, the configuration
// reference prints it. Upper limits keep the products of sizes inside 64 bits.
#pragma once
#include <cstdint>
#include <vector>

#include "model/config.h"

namespace jambalaya {

struct IntegerLimit {
  const char* key;
  int64_t ModelConfig::*field;
  int64_t min, max;
};
struct RealLimit {
  const char* key;
  double ModelConfig::*field;
  double min, max;
  bool open_min = false;  ///< min itself is not admissible
};

const std::vector<IntegerLimit>& integer_limits();
const std::vector<RealLimit>& real_limits();
/// The divisors of n next to `value`: the largest below and the smallest above, e.g. "3 or 4"; for messages.
std::string nearest_divisors(int64_t n, int64_t value);
/// The multiples of n next to `value`, zero left out.
std::string nearest_multiples(int64_t n, int64_t value);

}  // namespace jambalaya
