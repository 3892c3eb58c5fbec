#include "train/run/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/philox.h"

namespace jambalaya {

int32_t sample_token(const float* logits, int64_t vocab, const SamplingOptions& o, int64_t sequence,
                     int64_t position) {
  if (o.temperature <= 0) return int32_t(std::max_element(logits, logits + vocab) - logits);
  std::vector<int32_t> order(static_cast<size_t>(vocab));
  std::iota(order.begin(), order.end(), 0);
  auto likelier = [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  const int64_t kept = o.top_k > 0 ? std::min(o.top_k, vocab) : vocab;
  std::partial_sort(order.begin(), order.begin() + kept, order.end(), likelier);
  order.resize(size_t(kept));

  std::vector<double> p(order.size());
  double total = 0;
  for (size_t i = 0; i < p.size(); i++)
    total += p[i] = std::exp((double(logits[order[i]]) - double(logits[order[0]])) / o.temperature);
  if (o.top_p < 1) {  // the smallest head of the list that holds the share
    double sum = 0;
    size_t n = 0;
    while (n < p.size() && sum < o.top_p * total) sum += p[n++];
    p.resize(std::max<size_t>(n, 1));
    total = std::max(sum, p[0]);
  }
  PhiloxBlock bits = philox(hash_name(o.seed, "sampling"), uint64_t(position), uint64_t(sequence));
  double at = (double(bits[0]) + 0.5) * 0x1p-32 * total;
  for (size_t i = 0; i < p.size(); i++)
    if ((at -= p[i]) < 0) return order[i];
  return order[p.size() - 1];
}

}  // namespace jambalaya
