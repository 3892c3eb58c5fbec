// The next token: the likeliest, or drawn from the softmax at a temperature, from the right set of ids, by a
// number that depends on seed, sequence and position alone.
#include "train/run/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <vector>

namespace jambalaya {
namespace {

int32_t sample(const std::vector<float>& logits, const SamplingOptions& o, int64_t sequence,
               int64_t position) {
  return sample_token(logits.data(), int64_t(logits.size()), o, sequence, position);
}

std::vector<int64_t> histogram(const std::vector<float>& logits, const SamplingOptions& o, int64_t draws) {
  std::vector<int64_t> count(logits.size());
  for (int64_t i = 0; i < draws; i++) count.at(size_t(sample(logits, o, 0, i)))++;
  return count;
}

std::set<int32_t> drawn(const std::vector<float>& logits, const SamplingOptions& o, int64_t draws = 3000) {
  std::set<int32_t> ids;
  for (int64_t i = 0; i < draws; i++) ids.insert(sample(logits, o, 0, i));
  return ids;
}

/// exp(logit / temperature) / sum over the ids in `kept` (empty: all), written down directly.
std::vector<double> softmax(const std::vector<float>& logits, double temperature,
                            const std::set<int32_t>& kept = {}) {
  std::vector<double> p(logits.size());
  double sum = 0;
  for (size_t i = 0; i < p.size(); i++)
    if (kept.empty() || kept.count(int32_t(i))) sum += p[i] = std::exp(double(logits[i]) / temperature);
  for (double& x : p) x /= sum;
  return p;
}

/// Pearson's statistic over cells of positive probability; a draw of probability 0 is infinitely wrong.
double chi_square(const std::vector<int64_t>& count, const std::vector<double>& p) {
  int64_t draws = 0;
  for (int64_t c : count) draws += c;
  double sum = 0;
  for (size_t i = 0; i < p.size(); i++) {
    const double expected = p[i] * double(draws), off = double(count[i]) - expected;
    if (p[i] > 0)
      sum += off * off / expected;
    else if (count[i])
      return std::numeric_limits<double>::infinity();
  }
  return sum;
}

std::vector<float> log_of(const std::vector<double>& p) {
  std::vector<float> logits;
  for (double x : p) logits.push_back(float(std::log(x)));
  return logits;
}

TEST(Sampling, greedy_takes_the_likeliest_and_of_equals_the_lowest_id) {
  for (int64_t position = 0; position < 20; position++) {
    EXPECT_EQ(sample({1, 3, 2, 3, 3}, {.temperature = 0}, 0, position), 1);
    EXPECT_EQ(sample({-5, -5, -5}, {.temperature = 0, .top_k = 2, .top_p = 0.5}, 0, position), 0);
    EXPECT_EQ(sample({-3, -2, -1}, {.temperature = 0, .seed = 9}, 4, position), 2);
  }
}

TEST(Sampling, frequencies_follow_the_softmax_at_each_temperature) {
  const std::vector<float> logits = {0.3f, -1, 1.2f, 0, 0.3f, -0.5f, 2, 1.9f, -2, 0.7f, 1};
  for (double temperature : {0.5, 1.0, 2.0}) {
    const std::vector<int64_t> count = histogram(logits, {.temperature = temperature}, 20000);
    // 10 degrees of freedom: a right sampler goes beyond 40 once in 60,000 seeds.
    EXPECT_LT(chi_square(count, softmax(logits, temperature)), 40) << temperature;
    // The statistic can tell: the neighbouring temperature is far off.
    EXPECT_GT(chi_square(count, softmax(logits, temperature * 1.25)), 80) << temperature;
  }
}

TEST(Sampling, frequencies_over_sequences_follow_the_softmax_too) {
  const std::vector<float> logits = log_of({0.1, 0.4, 0.2, 0.3});
  std::vector<int64_t> count(4);
  for (int64_t s = 0; s < 20000; s++) count.at(size_t(sample(logits, {.temperature = 1}, s, 7)))++;
  EXPECT_LT(chi_square(count, {0.1, 0.4, 0.2, 0.3}), 24);  // 3 degrees of freedom
}

TEST(Sampling, neighbouring_draws_are_independent) {
  const std::vector<float> even(4);
  const SamplingOptions o{.temperature = 1};
  std::vector<int64_t> positions(16), sequences(16), seeds(16);
  for (int64_t i = 0; i < 16000; i++) {
    const int32_t here = sample(even, o, 0, i);
    positions.at(size_t(here * 4 + sample(even, o, 0, i + 1)))++;
    sequences.at(size_t(here * 4 + sample(even, o, 1, i)))++;
    seeds.at(size_t(here * 4 + sample(even, {.temperature = 1, .seed = 2}, 0, i)))++;
  }
  const std::vector<double> p(16, 1.0 / 16);
  for (const auto& count : {positions, sequences, seeds}) EXPECT_LT(chi_square(count, p), 50);
}

TEST(Sampling, top_k_keeps_the_likeliest_k_and_their_proportions) {
  const std::vector<float> logits = {1, 0.5f, 2, 1, -1, 1.5f};
  const std::set<int32_t> best[] = {{2}, {2, 5}, {0, 2, 5}, {0, 2, 3, 5}};  // id 0 before id 3, its equal
  for (int64_t k = 1; k <= 4; k++) {
    const SamplingOptions o{.temperature = 1, .top_k = k};
    EXPECT_EQ(drawn(logits, o), best[k - 1]) << k;
    EXPECT_LT(chi_square(histogram(logits, o, 10000), softmax(logits, 1, best[k - 1])), 24) << k;
  }
  EXPECT_EQ(drawn(logits, {.temperature = 1, .top_k = 0}).size(), 6u);
  EXPECT_EQ(drawn(logits, {.temperature = 1, .top_k = 100}).size(), 6u);
}

TEST(Sampling, top_p_keeps_the_fewest_that_reach_the_share) {
  const std::vector<float> logits = log_of({0.15, 0.5, 0.05, 0.2, 0.1});
  const auto kept = [&](double top_p) { return drawn(logits, {.temperature = 1, .top_p = top_p}); };
  EXPECT_EQ(kept(1e-9), (std::set<int32_t>{1}));
  EXPECT_EQ(kept(0.49), (std::set<int32_t>{1}));
  EXPECT_EQ(kept(0.51), (std::set<int32_t>{1, 3}));
  EXPECT_EQ(kept(0.69), (std::set<int32_t>{1, 3}));
  EXPECT_EQ(kept(0.71), (std::set<int32_t>{0, 1, 3}));
  EXPECT_EQ(kept(0.94), (std::set<int32_t>{0, 1, 3, 4}));
  EXPECT_EQ(kept(0.96), (std::set<int32_t>{0, 1, 2, 3, 4}));
  const std::vector<int64_t> count = histogram(logits, {.temperature = 1, .top_p = 0.6}, 10000);
  EXPECT_LT(chi_square(count, {0, 0.5 / 0.7, 0, 0.2 / 0.7, 0}), 16);
}

TEST(Sampling, top_p_is_a_share_at_the_temperature_and_of_what_top_k_left) {
  const std::vector<float> logits = log_of({0.5, 0.2, 0.15, 0.1, 0.05});
  // At temperature 0.5 the shares are the squares: 0.77, 0.12, ...
  EXPECT_EQ(drawn(logits, {.temperature = 0.5, .top_p = 0.7}), (std::set<int32_t>{0}));
  // Of the three left, the first two have 0.82; of all five they have 0.7.
  EXPECT_EQ(drawn(logits, {.temperature = 1, .top_k = 3, .top_p = 0.8}), (std::set<int32_t>{0, 1}));
}

TEST(Sampling, choice_depends_on_seed_sequence_and_position_alone) {
  std::vector<float> logits(50);
  for (size_t i = 0; i < logits.size(); i++) logits[i] = 0.01f * float(i % 7);
  const SamplingOptions o{.temperature = 1, .seed = 5};
  std::vector<int32_t> first, other_seed, other_sequence, swapped;
  for (int64_t i = 0; i < 64; i++) first.push_back(sample(logits, o, 3, i));
  for (int64_t i = 63; i >= 0; i--)  // the other way round, with other draws in between
    EXPECT_EQ((sample(logits, o, 8, i), sample(logits, o, 3, i)), first[size_t(i)]);
  for (int64_t i = 0; i < 64; i++) {
    other_seed.push_back(sample(logits, {.temperature = 1, .seed = 6}, 3, i));
    other_sequence.push_back(sample(logits, o, 4, i));
    swapped.push_back(sample(logits, o, i, 3));
  }
  EXPECT_NE(first, other_seed);
  EXPECT_NE(first, other_sequence);
  EXPECT_NE(first, swapped);
}

TEST(Sampling, ids_lie_in_the_vocabulary_and_have_a_probability) {
  const float infinity = std::numeric_limits<float>::infinity(), huge = std::numeric_limits<float>::max();
  const std::vector<std::vector<float>> all = {{0},
                                               {-infinity, 0, -infinity, -infinity},
                                               {huge, -huge, huge, 0},
                                               {-huge, -huge, -huge},
                                               {1e-30f, 0, 0},
                                               {100, -100, 99, -infinity}};
  for (const std::vector<float>& logits : all)
    for (double temperature : {0.0, 1e-9, 0.8, 1.0, 1e9})
      for (int64_t top_k : {0, 1, 2, 1000})
        for (double top_p : {1e-12, 0.3, 0.999999, 1.0})
          for (int64_t position = 0; position < 40; position++) {
            const SamplingOptions o{.temperature = temperature, .top_k = top_k, .top_p = top_p};
            const int32_t id = sample(logits, o, position % 3, (position << 33) + position);
            ASSERT_GE(id, 0);
            ASSERT_LT(id, int32_t(logits.size()));
            EXPECT_GT(logits[size_t(id)], -infinity);
          }
}

}  // namespace
}  // namespace jambalaya
