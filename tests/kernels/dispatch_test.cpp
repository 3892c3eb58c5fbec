// Which instruction set is taken, and how one that cannot be is told.
#include <gtest/gtest.h>

#include <cstdlib>

#include "kernels/ops.h"
#include "tests/support/files.h"

namespace jambalaya {
namespace {

TEST(InstructionSet, one_that_is_not_there_is_told_with_where_it_was_asked_for) {
  setenv("JAMBALAYA_ISA", "avx9", 1);
  EXPECT_TRUE(test::mentions(test::error_of(Exit::usage, [] { cpu_ops(); }), "JAMBALAYA_ISA=avx9: "));
  unsetenv("JAMBALAYA_ISA");
  const std::string own = test::error_of(Exit::usage, [] { cpu_ops("avx8"); });
  EXPECT_TRUE(test::mentions(own, "instruction set avx8: "));
  EXPECT_FALSE(test::mentions(own, "JAMBALAYA_ISA"));
}

}  // namespace
}  // namespace jambalaya
