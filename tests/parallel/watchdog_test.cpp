// A rank that is stopped ends the job with exit code 7 within the deadline + 3 s, and everybody is told who
// waits where; one that comes back in time does no harm. Starts itself as three ranks under mpirun.
#include "parallel/watchdog.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>

#include "parallel/communicator.h"
#include "tests/support/temporary_folder.h"

namespace jambalaya {
namespace {

using Clock = std::chrono::steady_clock;
using test::read_file;
std::string self;  // path of this program

/// What each rank does: FOLDER DEADLINE STEPS. Collectives of 20 ms, one after another.
int work(const std::string& folder, double deadline, int steps) {
  std::unique_ptr<Communicator> world = make_world_communicator();
  Watchdog::instance().start(*world, deadline);
  Watchdog::instance().set_folder(*world, folder);
  std::ofstream(cat(folder, "/pid-", world->rank())) << getpid() << '\n';
  std::unique_ptr<Communicator> group = world->split(0, "steps");
  for (int step = 0; step < steps; step++) {
    Watchdog::instance().set_step(step);
    std::vector<float> x(1000, 1.0f);
    group->all_reduce(make_tensor(x.data(), {1000}));
    if (step == 5 && world->rank() == 0) std::ofstream(folder + "/running") << "yes\n";
    usleep(20'000);
  }
  group.reset();
  world.reset();
  finish_world(0);
  return 0;
}

#ifdef JAMBALAYA_MPIEXEC
class WatchdogJob : public testing::Test {
 protected:
  void start(double deadline, int steps) {
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 1);
    job_ = fork();
    if (job_ == 0) {
      const int log = open(path("log").c_str(), O_CREAT | O_WRONLY, 0644);
      dup2(log, 1);
      dup2(log, 2);
      execl(JAMBALAYA_MPIEXEC, JAMBALAYA_MPIEXEC, "-n", "3", "--oversubscribe", "--bind-to", "none",
            self.c_str(), "work", folder_.path(".").c_str(), cat(deadline).c_str(), cat(steps).c_str(),
            nullptr);
      _exit(127);
    }
    while (read_file(path("running")).empty() && waitpid(job_, &status_, WNOHANG) == 0) usleep(20'000);
  }
  /// The exit code of the job.
  int finish() {
    waitpid(job_, &status_, 0);
    return WIFEXITED(status_) ? WEXITSTATUS(status_) : -1;
  }
  pid_t pid_of(int rank) { return pid_t(std::atol(read_file(path(cat("pid-", rank))).c_str())); }
  std::string path(const std::string& name) { return folder_.path(name); }

  test::TemporaryFolder folder_;
  pid_t job_ = 0;
  int status_ = 0;
};

TEST_F(WatchdogJob, a_stopped_rank_ends_the_job_within_the_deadline_and_three_seconds) {
  const double deadline = 2;
  start(deadline, 100'000);
  ASSERT_GT(pid_of(1), 0) << read_file(path("log"));
  ASSERT_EQ(kill(pid_of(1), SIGSTOP), 0);
  const Clock::time_point stopped = Clock::now();
  EXPECT_EQ(finish(), 7);
  const double took = std::chrono::duration<double>(Clock::now() - stopped).count();
  const std::string log = read_file(path("log"));
  EXPECT_GE(took, deadline - 0.1);
  EXPECT_LE(took, deadline + 3) << log;
  for (int rank : {0, 2}) {
    EXPECT_NE(log.find(cat("rank ", rank, " on host ")), std::string::npos) << log;
    const std::string record = read_file(path(cat("logs/flight-0000", rank, ".json")));
    EXPECT_NE(record.find(cat("\"rank\": ", rank)), std::string::npos) << record;
    const size_t waiting = record.find("\"waiting\": ["), recent = record.find("\"recent\": [");
    ASSERT_NE(waiting, std::string::npos);
    ASSERT_NE(recent, std::string::npos);
    EXPECT_NE(record.substr(waiting, recent - waiting)
                  .find("\"group\": \"steps\", \"ranks\": 3, \"kind\": \"all-reduce\""),
              std::string::npos)
        << record;
    EXPECT_NE(record.find("\"kind\": \"all-reduce\"", recent), std::string::npos) << record;
  }
  EXPECT_NE(log.find("of group 'steps' (all-reduce, 3 ranks, sends "), std::string::npos) << log;
  EXPECT_NE(log.find("no answer from rank 1 on host "), std::string::npos) << log;
  // mpirun continues what it ends: the late rank must not look like one that answered.
  EXPECT_TRUE(read_file(path("logs/flight-00001.json")).empty());
}

TEST_F(WatchdogJob, a_rank_that_comes_back_in_time_does_no_harm) {
  start(30, 40);
  ASSERT_GT(pid_of(2), 0) << read_file(path("log"));
  ASSERT_EQ(kill(pid_of(2), SIGSTOP), 0);
  usleep(1'000'000);
  ASSERT_EQ(kill(pid_of(2), SIGCONT), 0);
  EXPECT_EQ(finish(), 0) << read_file(path("log"));
  EXPECT_TRUE(read_file(path("logs/flight-00000.json")).empty());
}

TEST_F(WatchdogJob, without_a_deadline_a_stopped_rank_is_waited_for) {
  start(0, 40);
  ASSERT_GT(pid_of(2), 0) << read_file(path("log"));
  ASSERT_EQ(kill(pid_of(2), SIGSTOP), 0);
  usleep(1'000'000);
  ASSERT_EQ(kill(pid_of(2), SIGCONT), 0);
  EXPECT_EQ(finish(), 0) << read_file(path("log"));
}
#endif

TEST(Watchdog, one_rank_is_not_watched) {
  std::unique_ptr<Communicator> one = make_single_communicator();
  Watchdog::instance().start(*one, 1);
  EXPECT_EQ(Watchdog::instance().begin({}), -1);
  Watchdog::instance().end(-1);
  Watchdog::instance().stop();
}

}  // namespace
}  // namespace jambalaya

int main(int argc, char** argv) {
  using namespace jambalaya;
  if (argc == 5 && std::strcmp(argv[1], "work") == 0)
    return work(argv[2], std::stod(argv[3]), std::stoi(argv[4]));
  self = argv[0];
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
