// Which way tensors on GPUs travel, decided alike by all ranks. Runs as two ranks, once with a NCCL that
// loads and once without (tests/emulator/ranks.cmake, tests/CMakeLists.txt); the GPUs are made up.
#include <cstdlib>

#include "parallel/communicator_nccl.h"
#include "tests/support/ranks.h"

namespace jambalaya {
namespace {

using test::world;

/// A GPU of which only the properties are asked for.
class NamedGpu final : public Accelerator {
 public:
  explicit NamedGpu(const std::string& bus_id) { properties_.bus_id = bus_id; }
  const AcceleratorProperties& properties() const override { return properties_; }
  Ops& ops() override { std::abort(); }
  void bind_thread() override {}
  void* reserve(int64_t) override { return nullptr; }
  void commit(void*, int64_t) override {}
  void release(void*) override {}
  void* pinned(int64_t) override { return nullptr; }
  void free_pinned(void*) override {}
  int64_t free_bytes() override { return 0; }
  Stream compute_stream() override { return nullptr; }
  Stream new_stream() override { return nullptr; }
  void free_stream(Stream) override {}
  Event new_event() override { return nullptr; }
  void free_event(Event) override {}
  void record(Event, Stream) override {}
  void wait(Stream, Event) override {}
  void wait_on_host(Event) override {}
  void synchronize(Stream) override {}
  bool reached(Event) override { return true; }
  void copy(void*, int64_t, const void*, int64_t, int64_t, int64_t, Stream) override {}
  void fill(void*, int64_t, uint8_t, int64_t, int64_t, Stream) override {}

 private:
  AcceleratorProperties properties_;
};

class TransportChoice : public testing::Test {
 protected:
  void SetUp() override {
    if (world().size() == 1) GTEST_SKIP() << "one rank has nobody to send to";
  }
  Transport choose(Transport wish, const std::string& bus_id) {
    NamedGpu gpu(bus_id);
    return choose_transport(world(), {.accelerator = &gpu, .transport = wish}, &note);
  }
  std::string own_bus() { return cat("0000:", 10 + world().rank(), ":00.0"); }
  const bool loads = !nccl_version().empty();
  std::string note;
};

TEST_F(TransportChoice, nccl_where_it_loads_and_each_rank_has_a_gpu_of_its_own) {
  EXPECT_EQ(choose(Transport::automatic, own_bus()), loads ? Transport::nccl : Transport::staged);
  if (loads)
    EXPECT_EQ(note, "");
  else
    EXPECT_NE(note.find("instead of NCCL: rank 0 on host "), std::string::npos) << note;
}

TEST_F(TransportChoice, staged_where_ranks_share_a_gpu) {
  EXPECT_EQ(choose(Transport::staged, "0000:17:00.0"), Transport::staged);
  EXPECT_EQ(note, "") << "it was asked for";
  EXPECT_EQ(choose(Transport::automatic, "0000:17:00.0"), Transport::staged);
  const char* why =
      loads ? "ranks 0 and 1 share GPU 0000:17:00.0 of host " : "instead of NCCL: rank 0 on host ";
  EXPECT_NE(note.find(why), std::string::npos) << note;
}

TEST_F(TransportChoice, nccl_that_cannot_be_is_refused_on_every_rank) {
  for (const std::string& bus : {std::string("0000:17:00.0"), loads ? "0000:18:00.0" : own_bus()}) {
    try {
      choose(Transport::nccl, bus);
      FAIL() << "not refused";
    } catch (const Error& e) {
      EXPECT_EQ(e.exit(), Exit::layout);
      EXPECT_NE(std::string(e.what()).find("parallel.transport = nccl cannot be used: "), std::string::npos)
          << e.what();
    }
  }
}

TEST_F(TransportChoice, ranks_share_a_gpu_with_nccl_only_where_that_was_asked_for) {
  if (world().size() != 2) GTEST_SKIP();
  setenv("NCCL_HOSTID", "x", 1);  // experiments may let ranks share a GPU, and say so on each of them
  if (loads)
    EXPECT_EQ(choose(Transport::nccl, "0000:17:00.0"), Transport::nccl);
  else
    EXPECT_THROW(choose(Transport::nccl, "0000:17:00.0"), Error);
  EXPECT_EQ(choose(Transport::automatic, "0000:17:00.0"), Transport::staged) << "but nobody does by chance";
  unsetenv("NCCL_HOSTID");
}

TEST(Transport, without_a_device_there_is_nothing_to_choose) {
  std::string note = "old";
  EXPECT_EQ(choose_transport(world(), {}, &note), Transport::staged);
  EXPECT_EQ(note, "");
}

}  // namespace
}  // namespace jambalaya

int main(int argc, char** argv) { return jambalaya::test::run_ranks(argc, argv); }
