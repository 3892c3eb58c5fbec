#include "kernels/byte_text.h"

#include <gtest/gtest.h>

namespace jambalaya {
namespace {

TEST(ByteText, only_nothing_is_told_as_nothing) {
  EXPECT_EQ(byte_text(0), "0 KiB");
  EXPECT_EQ(byte_text(1), "1 KiB");
  EXPECT_EQ(byte_text(256 << 10), "256 KiB");
  EXPECT_EQ(byte_text((1 << 20) - 1), "1024 KiB");
  EXPECT_EQ(byte_text(8192 << 10), "8 MiB");
  EXPECT_EQ(byte_text((int64_t(1) << 30) - 1), "1023 MiB");
  EXPECT_EQ(byte_text(int64_t(7) << 30), "7 GiB");
  EXPECT_EQ(byte_text(int64_t(71) << 30), "71 GiB");
  EXPECT_EQ(byte_text((int64_t(15) << 30) / 2), "7.5 GiB");
}

}  // namespace
}  // namespace jambalaya
