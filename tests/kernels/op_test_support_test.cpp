// The helpers of op tests themselves: a guard that never trips would hide out-of-bounds writes.
#include <gtest/gtest.h>

#include "tests/support/op_test.h"

namespace jambalaya::test {
namespace {

TEST(OwnedTensor, guards_notice_writes_outside_and_only_those) {
  Owned t(DType::f32, {3, 5}, 7);
  t.uniform(1);
  EXPECT_TRUE(t.guards_intact());
  Owned gap = t, before = t, after = t;
  gap.ptr<float>()[5] = 1;
  before.ptr<float>()[-1] = 1;
  after.ptr<float>()[2 * 7 + 5] = 1;
  EXPECT_FALSE(gap.guards_intact());
  EXPECT_FALSE(before.guards_intact());
  EXPECT_FALSE(after.guards_intact());
}

TEST(OwnedTensor, starts_poisoned_and_copies_keep_bits) {
  Owned t(DType::bf16, {2, 3}, 8);
  for (double x : t.values()) EXPECT_TRUE(std::isnan(x));
  t.uniform(3);
  Owned copy = t;
  EXPECT_EQ(copy.bits(), t.bits());
  EXPECT_NE(copy->data, t->data);
  EXPECT_EQ(rounded_to_bf16(t.values()), t.values());
  EXPECT_GT(relative_l2(Owned(DType::f32, {2, 3}), t.values()), 1e300);
  EXPECT_EQ(relative_l2(t, t.values()), 0);
}

TEST(Dispatch, this_machine_has_at_least_one_instruction_set) {
  for (const auto& isa : available_isas())
    EXPECT_EQ(std::string(cpu_ops(isa.c_str()).name()), "cpu (" + isa + ")");
  EXPECT_FALSE(available_isas().empty());
  EXPECT_THROW(cpu_ops("avx1024"), Error);
}

}  // namespace
}  // namespace jambalaya::test
