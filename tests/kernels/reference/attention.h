// Attention and rotary embedding in float64 by their definitions: the full matrix of scores, one row at a
// time.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace jambalaya::reference {

using Values = std::vector<double>;

/// Queries [T, H, C] in segments of `lengths` tokens; keys and values [K, G, C].
struct Attention {
  int64_t query_heads, key_heads, size;
  double scale;
  std::vector<int64_t> lengths;
  std::vector<int64_t> first_key;    ///< per segment: row of its key 0
  std::vector<int64_t> past;         ///< per segment: keys before its first token
  std::vector<int64_t> key_count{};  ///< optional, per segment: at most so many keys are seen

  int64_t tokens() const {
    int64_t n = 0;
    for (int64_t l : lengths) n += l;
    return n;
  }

  /// Calls f(token, head, key head, row of key 0, number of keys seen) for every query.
  template <class F>
  void for_each_query(F&& f) const {
    int64_t t = 0;
    for (size_t s = 0; s < lengths.size(); s++)
      for (int64_t i = 0; i < lengths[s]; i++, t++)
        for (int64_t h = 0; h < query_heads; h++) {
          int64_t seen = past[s] + i + 1;
          if (!key_count.empty()) seen = std::min(seen, key_count[s]);
          f(t, h, h / (query_heads / key_heads), first_key[s], seen);
        }
  }

  /// Scaled scores of one query against the keys it sees.
  Values scores(const Values& q, const Values& k, int64_t t, int64_t h, int64_t g, int64_t key,
                int64_t seen) const {
    Values x(size_t(seen), 0.0);
    for (int64_t j = 0; j < seen; j++)
      for (int64_t c = 0; c < size; c++)
        x[size_t(j)] += scale * q[size_t((t * query_heads + h) * size + c)] *
                        k[size_t(((key + j) * key_heads + g) * size + c)];
    return x;
  }

  static double log_sum_exp(const Values& x) {
    if (x.empty()) return -INFINITY;
    double top = x[0], sum = 0;
    for (double v : x) top = std::max(top, v);
    for (double v : x) sum += std::exp(v - top);
    return top + std::log(sum);
  }

  /// o [T, H, C]; lse [H, T].
  void forward(const Values& q, const Values& k, const Values& v, Values& o, Values& lse) const {
    o.assign(q.size(), 0.0);
    lse.assign(size_t(tokens() * query_heads), 0.0);
    for_each_query([&](int64_t t, int64_t h, int64_t g, int64_t key, int64_t seen) {
      Values x = scores(q, k, t, h, g, key, seen);
      double z = log_sum_exp(x);
      lse[size_t(h * tokens() + t)] = z;
      for (int64_t j = 0; j < seen; j++)
        for (int64_t c = 0; c < size; c++)
          o[size_t((t * query_heads + h) * size + c)] +=
              std::exp(x[size_t(j)] - z) * v[size_t(((key + j) * key_heads + g) * size + c)];
    });
  }

  void backward(const Values& q, const Values& k, const Values& v, const Values& d_out, Values& dq,
                Values& dk, Values& dv) const {
    dq.assign(q.size(), 0.0);
    dk.assign(k.size(), 0.0);
    dv.assign(v.size(), 0.0);
    for_each_query([&](int64_t t, int64_t h, int64_t g, int64_t key, int64_t seen) {
      Values p = scores(q, k, t, h, g, key, seen), dp(size_t(seen), 0.0);
      double z = log_sum_exp(p), mean = 0;
      const size_t query = size_t((t * query_heads + h) * size);
      for (int64_t j = 0; j < seen; j++) {
        const size_t row = size_t(((key + j) * key_heads + g) * size);
        p[size_t(j)] = std::exp(p[size_t(j)] - z);
        for (size_t c = 0; c < size_t(size); c++) {
          dp[size_t(j)] += d_out[query + c] * v[row + c];
          dv[row + c] += p[size_t(j)] * d_out[query + c];
        }
        mean += p[size_t(j)] * dp[size_t(j)];
      }
      for (int64_t j = 0; j < seen; j++) {
        const size_t row = size_t(((key + j) * key_heads + g) * size);
        double dx = scale * p[size_t(j)] * (dp[size_t(j)] - mean);
        for (size_t c = 0; c < size_t(size); c++) {
          dq[query + c] += dx * k[row + c];
          dk[row + c] += dx * q[query + c];
        }
      }
    });
  }
};

/// x [T, heads, C] rotated by its positions; the pair (j, j + C/2) turns by position * theta^(-2j/C).
inline Values rope(const Values& x, const std::vector<int64_t>& positions, int64_t heads, int64_t size,
                   double theta, double sign) {
  Values y = x;
  for (size_t t = 0; t < positions.size(); t++)
    for (int64_t h = 0; h < heads; h++)
      for (int64_t j = 0; j < size / 2; j++) {
        double angle = sign * double(positions[t]) / std::pow(theta, 2.0 * double(j) / double(size));
        size_t low = (t * size_t(heads) + size_t(h)) * size_t(size) + size_t(j),
               high = low + size_t(size / 2);
        y[low] = x[low] * std::cos(angle) - x[high] * std::sin(angle);
        y[high] = x[high] * std::cos(angle) + x[low] * std::sin(angle);
      }
  return y;
}

}  // namespace jambalaya::reference
