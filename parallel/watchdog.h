// Ends a job whose ranks wait for one that does not come. MPI waits for ever when a rank is stopped or a link
// is cut; so every process keeps a list of the collectives that it is in, and a thread of its own looks at
// it. A collective that takes longer than the deadline ends the process with exit code 7 (the launcher then
// ends the other ranks), after it has said who waits where, on standard error and in a flight record:
//
//   <folder>/logs/flight-00003.json   what rank 3 waited for, and its last 256 collectives
//
// A collective that is enqueued on a device is in flight until the device has done it: a third thread asks
// for that, and for errors that NCCL reports meanwhile, which end the process in the same way. It does so
// without a deadline too.
//
// The first rank past its deadline raises an alarm (a file beside the records) that makes the other ranks
// write theirs; then it names the ranks that left none, on standard error and in the alarm file: those are
// the ones to look at.
#pragma once
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace jambalaya {

class Communicator;

class Watchdog {
 public:
  /// A collective that this process has entered. `group` and `kind` are not copied.
  struct Flight {
    const char* group = "";
    int size = 0;  ///< ranks of the group
    const char* kind = "";
    int64_t number = 0;                ///< in its group
    int64_t bytes = 0;                 ///< that this rank sends
    int64_t begin_ns = 0, end_ns = 0;  ///< steady clock; end 0: still in it
  };

  /// What the device has still to do. Asked by a thread of the watchdog.
  class Pending {
   public:
    virtual ~Pending() = default;
    virtual bool done() = 0;
    /// What has gone wrong, "" as far as is known.
    virtual std::string failure() = 0;
  };

  /// One for the process: communicators report to it.
  static Watchdog& instance();
  ~Watchdog() { stop(); }

  /// Begins to watch (collective over `world`). deadline_s = 0: for errors alone. A single rank: nothing.
  void start(Communicator& world, double deadline_s);
  /// Where flight records go: <folder>/logs (collective over `world`, so that no record of an earlier job is
  /// taken for one of this). Without it they are not written.
  void set_folder(Communicator& world, const std::string& folder);
  /// The training step, for the records.
  void set_step(int64_t step) { step_.store(step, std::memory_order_relaxed); }
  void stop();

  /// A collective begins; returns what end() wants, -1 when nothing is watched.
  int begin(const Flight& flight);
  void end(int slot);
  /// Instead of end(): the collective has been enqueued and goes on until the device has done it. Deadlines
  /// of one group's run from the enqueuing.
  void follow(int slot, std::shared_ptr<Pending> pending);

 private:
  static constexpr size_t kSlots = 16;  ///< collectives that threads of one process can be in at a time
  static constexpr size_t kRecent = 256;

  void watch();   ///< for collectives past their deadline
  void listen();  ///< for another rank's alarm
  void ask();     ///< the device how far it is
  [[noreturn]] void fire(const char* reason);
  bool raise_alarm() const;
  bool verdict_is_out() const;
  void remember(Flight flight);         ///< as done; needs mutex_
  std::vector<Flight> waiting() const;  ///< needs mutex_; of enqueued ones the first of each group
  std::string record(const char* reason, int64_t now) const;
  std::string complaint(int64_t now) const;
  std::string silent_ranks() const;
  std::string record_path(int rank) const;
  std::string alarm_path() const;

  std::atomic<bool> on_{false};
  std::atomic<int64_t> step_{-1};
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  std::array<Flight, kSlots> slots_{};  ///< in flight: begin_ns != 0
  struct Enqueued {
    Flight flight;
    std::shared_ptr<Pending> pending;
  };
  std::deque<Enqueued> enqueued_;         ///< oldest first
  std::array<Flight, kRecent> recent_{};  ///< done, a ring
  int64_t done_ = 0;
  int rank_ = 0;
  std::vector<std::string> hosts_;  ///< of every rank
  double deadline_s_ = 0;           ///< 0: none
  std::string folder_;              ///< of the records; "" writes none
  int64_t job_ = 0;                 ///< tells this job's alarm from those of earlier ones
  std::array<std::thread, 3> threads_;
};

}  // namespace jambalaya
