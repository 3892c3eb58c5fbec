// What `jambalaya doctor` tells of the machine.
#include "train/machine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

namespace jambalaya {
namespace {

TEST(Machine, a_small_limit_is_not_told_as_nothing) {
  EXPECT_EQ(memory_text(8192 << 10), "8 MiB");
  EXPECT_EQ(memory_text(kUnlimited), "unlimited");
}

TEST(Machine, environment_has_what_the_program_and_its_libraries_read) {
  const std::pair<std::string, std::string> known[] = {{"JAMBALAYA_CUDA_LIBRARY", "a.so"},
                                                       {"JAMBALAYA_NCCL_LIBRARY", "b=c"},
                                                       {"JAMBALAYA_TF32", ""},
                                                       {"NCCL_IB_HCA", "mlx5_0"},
                                                       {"NCCL_PROTO", "Simple"},
                                                       {"CUDA_VISIBLE_DEVICES", "0,1"},
                                                       {"OMP_NUM_THREADS", "3"}};
  for (const auto& [name, value] : known) setenv(name.c_str(), value.c_str(), 1);
  for (const char* name : {"PMIX_NAMESPACE", "SECRET_TOKEN", "MY_NCCL_PROTO"}) setenv(name, "x", 1);
  const auto found = known_environment();
  for (const auto& entry : known)
    EXPECT_EQ(std::count(found.begin(), found.end(), entry), 1) << entry.first << "=" << entry.second;
  for (const auto& [name, value] : found)
    EXPECT_TRUE(name != "PMIX_NAMESPACE" && name != "SECRET_TOKEN" && name != "MY_NCCL_PROTO") << name;
  EXPECT_TRUE(std::is_sorted(found.begin(), found.end()));
}

}  // namespace
}  // namespace jambalaya
