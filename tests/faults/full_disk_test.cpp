// A disk that is full, read-only or limited: exit code 74 and a message with the file, never a crash; every
// checkpoint that was there is whole, and the run goes on when there is room.
#include <sys/mount.h>

#include <set>

#include "tests/faults/faulted_run.h"

namespace jambalaya {
namespace {

using test::Process;

class FullDisk : public test::FaultedRun {
 protected:
  /// Ends with 74 and says `reason`.
  static std::string expect_io_error(const Config& c, const std::string& command, const std::string& reason) {
    Process process(log_of(c), command);
    EXPECT_EQ(process.wait(), int(Exit::io)) << process.output();
    const std::string said = process.output();
    EXPECT_NE(said.find(reason), std::string::npos) << "'" << reason << "' is not in: " << said;
    EXPECT_NE(said.find(c.run.folder), std::string::npos) << said;
    EXPECT_EQ(said.find("this is a bug"), std::string::npos) << said;
    return said;
  }
};

/// A file system at a folder, for as long as this lives.
class Mount {
 public:
  Mount(const std::string& path, const char* type, unsigned long flags, const std::string& options)
      : path_(path) {
    const char* source = flags & MS_BIND ? path.c_str() : "none";
    mounted_ = mount(source, path.c_str(), type, flags, options.c_str()) == 0;
  }
  ~Mount() {
    if (mounted_) umount2(path_.c_str(), MNT_DETACH);
  }
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;
  explicit operator bool() const { return mounted_; }
  bool remount(unsigned long flags, const std::string& options = "") const {
    return mount("none", path_.c_str(), nullptr, MS_REMOUNT | flags, options.c_str()) == 0;
  }

 private:
  std::string path_;
  bool mounted_;
};

TEST_F(FullDisk, at_any_write_of_a_run_costs_at_most_the_steps_since_the_last_save) {
  std::set<int64_t> reached;
  // Until the disk fills up after the last write that matters: pictures are drawn after the last save.
  for (int from = 1; reached.count(6) == 0; from += 1 + from / 2) {
    SCOPED_TRACE(cat("from write ", from));
    ASSERT_LT(from, 100000);
    const Config c = config(cat("from-", from));
    const std::string line = command(c, 1, cat("FULL_DISK_FOLDER=", c.run.folder, " FULL_DISK_FROM=", from));
    Process process(log_of(c), line);
    const int code = process.wait();
    const int64_t last = saved(c).empty() ? 0 : saved(c).rbegin()->first;
    reached.insert(last);
    EXPECT_TRUE(code == int(Exit::io) || (code == 0 && last == 6)) << code << ": " << process.output();
    if (code) {
      EXPECT_NE(process.output().find("No space left on device"), std::string::npos) << process.output();
      EXPECT_NE(process.output().find(c.run.folder), std::string::npos) << process.output();
    }
    EXPECT_EQ(process.output().find("this is a bug"), std::string::npos) << process.output();
    expect_recovers(c, 1);
  }
  EXPECT_TRUE(reached.count(0) && reached.count(2) && reached.count(4)) << "a save was never interrupted";
}

#ifdef JAMBALAYA_MPIEXEC
TEST_F(FullDisk, on_one_of_two_hosts_ends_both_ranks_and_publishes_nothing) {
  const Config c = config("second");  // rank 1 writes its file of each checkpoint, and nothing else
  expect_io_error(c,
                  command(c, 2, cat("FULL_DISK_FOLDER=", c.run.folder, " FULL_DISK_RANK=1 FULL_DISK_FROM=2")),
                  "rank 1: ");
  EXPECT_TRUE(saved(c).empty());
  EXPECT_FALSE(saving(c));
  expect_recovers(c, 2);
}
#endif

TEST_F(FullDisk, as_the_kernel_has_it) {
  Config c = config("tmpfs");
  std::filesystem::create_directories(c.run.folder);
  const Mount disk(c.run.folder, "tmpfs", 0, "size=2m");
  if (!disk) GTEST_SKIP() << "may not mount";
  c.train.steps = 40;
  const std::string said = expect_io_error(c, command(c, 1), ": a checkpoint needs ");
  EXPECT_GE(saved(c).size(), 1u) << said;
  ASSERT_TRUE(disk.remount(0, "size=64m"));
  expect_recovers(c, 1);
}

TEST_F(FullDisk, limit_on_file_sizes_is_no_crash) {
  const Config c = config("limit");
  expect_io_error(c, cat("sh -c \"ulimit -f 8; exec ", command(c, 1), "\""), "File too large");
  expect_recovers(c, 1);
}

TEST_F(FullDisk, read_only_run_folder_is_refused_at_the_start) {
  const Config c = config("read-only");
  std::filesystem::create_directories(c.run.folder);
  const Mount disk(c.run.folder, "tmpfs", MS_RDONLY, "size=1m");
  if (!disk) GTEST_SKIP() << "may not mount";
  expect_io_error(c, command(c, 1), "Read-only file system");
}

TEST_F(FullDisk, checkpoints_that_become_read_only_stay_as_they_are) {
  Config c = config("becomes-read-only");
  c.train.steps = 3;
  c.checkpoint.every = 3;
  Process first(log_of(c), command(c, 1));
  ASSERT_EQ(first.wait(), 0) << first.output();
  c.train.steps = 6;
  {
    const Mount disk(c.run.folder + "/checkpoints", nullptr, MS_BIND, "");
    if (!disk || !disk.remount(MS_BIND | MS_RDONLY)) GTEST_SKIP() << "may not mount";
    expect_io_error(c, command(c, 1), "Read-only file system");
    EXPECT_EQ(saved(c).rbegin()->first, 3);
    EXPECT_EQ(test::metrics(c.run.folder).size(), 6u);  // steps that were made, and will be made again
  }
  Process second(log_of(c), command(c, 1));
  EXPECT_EQ(second.wait(), 0) << second.output();
  EXPECT_EQ(test::metrics(c.run.folder).size(), 6u);
}

}  // namespace
}  // namespace jambalaya
