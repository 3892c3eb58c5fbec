// What the benchmarks say: floors by known arithmetic, and losses that no NaN slips through.
#include <gtest/gtest.h>

#include <set>

#include "scripts/benchmarks/kernel_cases.h"
#include "scripts/benchmarks/losses.h"

namespace jambalaya::bench {
namespace {

const std::vector<KernelCase>& cases() {
  static const std::vector<KernelCase> made = kernel_cases(Widths(), 32768, 4096);
  return made;
}
const Work& work_of(const std::string& name) {
  for (const KernelCase& c : cases())
    if (c.name == name) return c.work;
  throw std::runtime_error("no case " + name);
}

// 8 x 4096 tokens through Jamba-v0.1: T = 32768, TD = 134.2e6, TE = 268.4e6, 4.295e9 state updates.
TEST(KernelWork, bytes_are_those_of_the_tensors) {
  const double td = 32768.0 * 4096, te = 2 * td, tf = 32768.0 * 14336;
  const struct {
    const char* name;
    double bytes;
  } expected[] = {
      {"scan forward", 2.42e9},
      {"scan backward", 14 * te + te},  // a state every 64 tokens
      {"convolution forward", 4 * te},
      {"convolution backward", 6 * te},
      {"RMSNorm with residual forward", 12 * td},  // the first has the residual in fp32
      {"SwiGLU forward", 6 * tf},
      {"SwiGLU backward", 10 * tf},
      {"gather rows", 6 * td},
      {"combine forward", 6 * td},
      {"combine backward", 10 * td},
      {"RoPE of queries and keys", 671e6},
      {"AdamW", 3.0e9},
      {"gradient norm", 0.4e9},
  };
  for (const auto& e : expected) EXPECT_NEAR(work_of(e.name).bytes / e.bytes, 1, 0.01) << e.name;
}

TEST(KernelWork, flops_are_those_of_the_products) {
  const struct {
    const char* name;
    double flops;
  } expected[] = {
      {"in_proj", 4.40e12},
      {"in_proj, input gradient", 4.40e12},
      {"in_proj, weight gradient", 4.40e12},
      {"x_proj", 1.55e11},
      {"dt_proj", 1.37e11},
      {"out_proj", 2.20e12},
      {"attention forward", 1.10e12},
      {"attention backward", 2.75e12},
      {"expert gate and up", 2.31e13 * 2 / 3},
      {"expert gate and up, weight gradient", 2.31e13 * 2 / 3},
      {"expert down, host offsets", 2.31e13 / 3},
      {"head and loss, forward and backward", 5.28e13},
  };
  for (const auto& e : expected) EXPECT_NEAR(work_of(e.name).flops / e.flops, 1, 0.01) << e.name;
}

TEST(KernelWork, embedding_counts_the_rows_that_are_touched) {
  std::vector<double> bytes;
  for (const KernelCase& c : cases())
    if (c.name == "embedding backward") bytes.push_back(c.work.bytes);
  ASSERT_EQ(bytes.size(), 2u);
  const double rows = 32768.0 * 4096 * 2, all_different = rows + 32768.0 * 4096 * 8;
  EXPECT_NEAR(bytes[1] / all_different, 1, 1e-3);  // even ids: none comes twice
  EXPECT_LT(bytes[0], 0.6 * all_different);        // those of text repeat
  EXPECT_GT(bytes[0], 1.2 * rows);
}

TEST(KernelWork, every_case_has_a_name_of_its_own_and_bytes) {
  std::set<std::string> seen;
  for (const KernelCase& c : cases()) {
    EXPECT_TRUE(seen.insert(c.name + c.shape).second) << c.name << " " << c.shape;
    EXPECT_GT(c.work.bytes, 0) << c.name;
  }
}

TEST(Losses, no_number_is_never_close) {
  const double nan = std::nan(""), inf = INFINITY;
  EXPECT_NEAR(largest_relative_difference({1, 2.2, 3}, {1, 2, 3}), 0.1, 1e-12);
  EXPECT_EQ(largest_relative_difference({1, 2}, {1, 2}), 0);
  for (const std::vector<double>& bad : {std::vector<double>{1, nan, 3}, {nan, 2, 3}, {1, 2, inf}, {1, 2}}) {
    EXPECT_FALSE(largest_relative_difference(bad, {1, 2, 3}) < 1e9);
    EXPECT_FALSE(largest_relative_difference({1, 2, 3}, bad) < 1e9);
    const bool equal = largest_relative_difference(bad, bad) == 0;  // the short one alone is fine with itself
    EXPECT_EQ(equal, bad.size() == 2);
  }
}

}  // namespace
}  // namespace jambalaya::bench
