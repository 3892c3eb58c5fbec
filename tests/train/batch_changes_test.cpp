// What ranks must agree on and what a resume on other ranks changes, as pure functions.
#include "train/run/batch_changes.h"

#include <gtest/gtest.h>

#include "parallel/hosts.h"
#include "train/checkpoint/manifest.h"
#include "train/files.h"
#include "train/run/memory_check.h"

namespace jambalaya {
namespace {

Config config_of(int64_t micro_batch, int64_t global_batch) {
  Config c;
  c.data.micro_batch = micro_batch;
  c.data.global_batch = global_batch;
  c.model.channel_pattern = "DE";
  c.model.router_aux_loss_coef = 0.01;
  return c;
}
TrainState stored(int64_t rows, int64_t accumulation) {
  TrainState state;
  state.rows_per_step = rows;
  state.accumulation_steps = accumulation;
  return state;
}

TEST(BatchChanges, none_while_rows_and_micro_batches_stay) {
  EXPECT_TRUE(batch_changes(stored(8, 1), config_of(4, 0), 2).empty());
  EXPECT_TRUE(batch_changes(stored(8, 1), config_of(4, 8), 2).empty());
  EXPECT_TRUE(batch_changes(stored(0, 0), config_of(4, 0), 2).empty()) << "an old checkpoint says nothing";
}

TEST(BatchChanges, other_rows_name_the_batch_that_keeps_them) {
  const std::vector<std::string> fewer = batch_changes(stored(8, 1), config_of(4, 0), 1);
  ASSERT_EQ(fewer.size(), 1u);
  EXPECT_NE(fewer[0].find("now has 4 rows, it had 8"), std::string::npos) << fewer[0];
  EXPECT_NE(fewer[0].find("set data.global_batch = 8 to keep"), std::string::npos) << fewer[0];
  const std::vector<std::string> more = batch_changes(stored(8, 1), config_of(3, 0), 4);
  ASSERT_EQ(more.size(), 1u);
  EXPECT_NE(more[0].find("data.global_batch = 8 and data.micro_batch = 2"), std::string::npos) << more[0];
  const std::vector<std::string> odd = batch_changes(stored(8, 1), config_of(4, 0), 3);
  ASSERT_EQ(odd.size(), 1u);
  EXPECT_NE(odd[0].find("no batch of 8 rows can be shared by 3 data ranks"), std::string::npos) << odd[0];
}

TEST(BatchChanges, other_micro_batches_matter_to_a_balance_loss_alone) {
  Config c = config_of(4, 8);
  const std::vector<std::string> told = batch_changes(stored(8, 1), c, 1);
  ASSERT_EQ(told.size(), 1u);
  EXPECT_NE(told[0].find("2 micro-batches"), std::string::npos) << told[0];
  EXPECT_NE(told[0].find("data.micro_batch = 8"), std::string::npos) << told[0];
  c.model.router_aux_loss_coef = 0;
  EXPECT_TRUE(batch_changes(stored(8, 1), c, 1).empty());
  c = config_of(4, 8);
  c.model.channel_pattern = "DD";
  EXPECT_TRUE(batch_changes(stored(8, 1), c, 1).empty());
}

TEST(BatchChanges, a_manifest_without_these_records_still_loads) {
  CheckpointInfo info;
  info.state = stored(8, 2);
  info.state.layout = "data=2";
  const std::string text = manifest_text(info);
  const CheckpointInfo whole = parse_checkpoint_manifest(text, "new");
  EXPECT_EQ(whole.state.rows_per_step, 8);
  EXPECT_EQ(whole.state.accumulation_steps, 2);
  EXPECT_EQ(whole.state.layout, "data=2");
  const size_t begin = text.find(",\n    \"rows_per_step\""), end = text.find("\n  }", begin);
  ASSERT_NE(begin, std::string::npos);
  std::string old = text.substr(0, begin) + text.substr(end);
  ASSERT_EQ(old.find("layout"), std::string::npos) << old;
  const size_t hash = old.find("self_hash") + 13;
  old.replace(hash, 32, std::string(32, '0'));
  old.replace(hash, 32, xxh3_of_bytes(old.data(), old.size()));
  const CheckpointInfo read = parse_checkpoint_manifest(old, "old");
  EXPECT_EQ(read.state.rows_per_step, 0);
  EXPECT_EQ(read.state.accumulation_steps, 0);
  EXPECT_EQ(read.state.layout, "");
}

TEST(MemoryShortage, ranks_of_a_host_are_added_and_the_worst_host_is_named) {
  constexpr int64_t kMiB = 1 << 20;
  EXPECT_EQ(memory_shortage({{"host a", 5 * kMiB, 10 * kMiB}, {"host a", 5 * kMiB, 12 * kMiB}}), "");
  EXPECT_EQ(memory_shortage({{"host a", 5 * kMiB, 100 * kMiB},
                             {"host b", 9 * kMiB, 20 * kMiB},
                             {"host b", 12 * kMiB, 18 * kMiB}}),
            "2 ranks on host b would need 21 MiB, 18 MiB are available there");
  EXPECT_EQ(memory_shortage({{"host a", 9 * kMiB, 8 * kMiB}, {"host b", 9 * kMiB, 1 * kMiB}}),
            "1 rank on host b would need 9 MiB, 1 MiB are available there");
  EXPECT_EQ(memory_shortage({{"host a", 9 * kMiB, -1}}), "") << "what is not known is not refused";
  EXPECT_EQ(memory_shortage({{"GPU 0 of host a", 5 * kMiB, 8 * kMiB},
                             {"GPU 1 of host a", 5 * kMiB, 8 * kMiB},
                             {"GPU 1 of host a", 5 * kMiB, 8 * kMiB}}),
            "2 ranks on GPU 1 of host a would need 10 MiB, 8 MiB are available there");
  EXPECT_EQ(
      memory_shortage({{"GPU 0 of host a", 9 * kMiB, 8 * kMiB, 2 * kMiB}}),
      "1 rank on GPU 0 of host a would need 9 MiB (2 MiB of it an estimate of NCCL's own buffers), 8 MiB "
      "are available there");
}

TEST(DescribeHosts, ranks_are_listed_by_host) {
  EXPECT_EQ(describe_hosts({"a", "a", "a", "b", "a", "c", "c"}),
            "host a: ranks 0-2 4, host b: ranks 3, host c: ranks 5-6");
}

}  // namespace
}  // namespace jambalaya
