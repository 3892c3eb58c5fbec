// A collective on a device that fails, or never ends, ends the job with exit code 7 and its name. Starts
// itself as two ranks under mpirun, over a NCCL that misbehaves (tests/emulator/fake_nccl.cpp): skipped where
// there is none.
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>

#include "parallel/communicator.h"
#include "parallel/watchdog.h"
#include "tests/support/link.h"
#include "tests/support/temporary_folder.h"

namespace jambalaya {
namespace {

std::string self;  // path of this program

/// What each rank does: FOLDER DEADLINE. Twenty collectives, each waited for.
int work(const std::string& folder, double deadline) {
  int code = 0;
  test::world_slot() = make_world_communicator();
  try {
    Watchdog::instance().start(test::world(), deadline);
    Watchdog::instance().set_folder(test::world(), folder);
    std::unique_ptr<Communicator> group = test::make_group(0, "steps");
    for (int step = 0; step < 20; step++) {
      Watchdog::instance().set_step(step);
      test::Placed<float> x(std::vector<float>(1000, 1.0f));
      group->all_reduce(x.tensor());
      if (x.values()[999] != 2) code = 1;
    }
  } catch (const Error& e) {
    std::fprintf(stderr, "rank %d: %s\n", test::world().rank(), e.what());
    code = int(e.exit());
  }
  test::world_slot().reset();
  finish_world(code);
  return code;
}

#ifdef JAMBALAYA_MPIEXEC
class LostDevice : public testing::Test {
 protected:
  void SetUp() override {
    if (!test::uses_nccl() || !std::getenv("JAMBALAYA_NCCL_LIBRARY"))
      GTEST_SKIP() << "needs an emulated device and a made-up NCCL (cuda_parallel_lost_device_test)";
  }
  /// The exit code of the job; what it said is in `said`.
  int run(const std::string& fault, double deadline) {
    const std::string log = folder_.path("log");
    const std::string line =
        cat("FAKE_NCCL_FAULT=", fault, " ", JAMBALAYA_MPIEXEC, " -n 2 --oversubscribe --bind-to none ", self,
            " work ", folder_.path(), " ", deadline, " >", log, " 2>&1");
    const auto begin = std::chrono::steady_clock::now();
    const int status = std::system(line.c_str());
    took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    said = test::read_file(log);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  std::string record(int rank) {
    return test::read_file(folder_.path(cat("logs/flight-0000", rank, ".json")));
  }

  test::TemporaryFolder folder_;
  std::string said;
  double took = 0;
};

TEST_F(LostDevice, nothing_is_said_where_nothing_fails) {
  EXPECT_EQ(run("none", 60), 0) << said;
  EXPECT_EQ(said.find("rank"), std::string::npos) << said;
}

TEST_F(LostDevice, a_collective_that_never_ends_meets_the_deadline) {
  EXPECT_EQ(run("1:5:hang", 2), 7) << said;
  EXPECT_GE(took, 2);
  EXPECT_NE(said.find("in collective 5 of group 'steps' (all-reduce, 2 ranks, sends 4.0 kB)"),
            std::string::npos)
      << said;
  EXPECT_NE(record(1).find("\"reason\": \"deadline\""), std::string::npos) << record(1);
  // Those that the device had done are told as done.
  const size_t recent = record(1).find("\"recent\": [");
  ASSERT_NE(recent, std::string::npos);
  EXPECT_NE(record(1).find("\"number\": 4,", recent), std::string::npos) << record(1);
}

TEST_F(LostDevice, an_error_that_comes_later_ends_the_job_before_the_deadline) {
  EXPECT_EQ(run("0:5:error", 600), 7) << said;
  EXPECT_NE(said.find("collective 5 of group 'steps' (all-reduce, 2 ranks): NCCL: remote process exited"),
            std::string::npos)
      << said;
  EXPECT_NE(record(0).find("\"reason\": \"error\""), std::string::npos) << record(0);
}

TEST_F(LostDevice, an_error_ends_the_job_without_a_deadline_too) {
  EXPECT_EQ(run("0:5:error", 0), 7) << said;
  EXPECT_NE(said.find("collective 5 of group 'steps' (all-reduce, 2 ranks): NCCL: remote process exited"),
            std::string::npos)
      << said;
  EXPECT_NE(said.find("; no deadline: exit 7"), std::string::npos) << said;
  EXPECT_NE(record(0).find("\"reason\": \"error\""), std::string::npos) << record(0);
}

TEST_F(LostDevice, a_call_that_is_refused_throws_with_the_name_of_the_collective) {
  EXPECT_EQ(run("0:5:refuse", 600), 7) << said;
  EXPECT_NE(said.find("rank 0: collective 5 of group 'steps' (all-reduce, 2 ranks): NCCL: unhandled system "
                      "error"),
            std::string::npos)
      << said;
}
#else
TEST(LostDevice, needs_mpi) { GTEST_SKIP() << "this build has no MPI"; }
#endif

}  // namespace
}  // namespace jambalaya

int main(int argc, char** argv) {
  using namespace jambalaya;
  if (argc == 4 && std::strcmp(argv[1], "work") == 0) return work(argv[2], std::stod(argv[3]));
  self = argv[0];
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
