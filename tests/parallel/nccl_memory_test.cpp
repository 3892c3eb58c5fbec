// What NCCL is expected to take for its buffers, by the variables that change it.
#include "parallel/nccl_memory.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace jambalaya {
namespace {

constexpr int64_t kMiB = 1 << 20;

class NcclMemory : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"NCCL_BUFFSIZE", "NCCL_MAX_NCHANNELS", "NCCL_MAX_CTAS"}) unsetenv(name);
  }
  void TearDown() override { SetUp(); }
};

TEST_F(NcclMemory, grows_with_the_communicators) {
  EXPECT_EQ(nccl_buffer_bytes(0), 0);
  EXPECT_EQ(nccl_buffer_bytes(1), 128 * kMiB);
  EXPECT_EQ(nccl_buffer_bytes(5), 640 * kMiB);
}

TEST_F(NcclMemory, follows_the_size_of_a_buffer_and_the_lower_limit_of_channels) {
  setenv("NCCL_BUFFSIZE", "1048576", 1);
  EXPECT_EQ(nccl_buffer_bytes(2), 64 * kMiB);
  setenv("NCCL_MAX_NCHANNELS", "8", 1);
  EXPECT_EQ(nccl_buffer_bytes(2), 16 * kMiB);
  setenv("NCCL_MAX_CTAS", "4", 1);
  EXPECT_EQ(nccl_buffer_bytes(2), 8 * kMiB);
  setenv("NCCL_MAX_NCHANNELS", "2", 1);
  EXPECT_EQ(nccl_buffer_bytes(2), 4 * kMiB);
}

TEST_F(NcclMemory, a_limit_above_the_usual_and_what_is_no_number_change_nothing) {
  setenv("NCCL_MAX_CTAS", "64", 1);
  EXPECT_EQ(nccl_buffers().channels, 32);
  for (const char* text : {"", "many", "0", "-4"}) {
    setenv("NCCL_MAX_CTAS", text, 1);
    setenv("NCCL_BUFFSIZE", text, 1);
    EXPECT_EQ(nccl_buffer_bytes(1), 128 * kMiB) << text;
  }
}

}  // namespace
}  // namespace jambalaya
