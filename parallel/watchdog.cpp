#include "parallel/watchdog.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "kernels/error.h"
#include "kernels/json_text.h"
#include "kernels/trace.h"
#include "parallel/communicator.h"
#include "parallel/hosts.h"

namespace jambalaya {

namespace {

using namespace std::chrono_literals;

constexpr auto kInterval = 200ms;  // between looks
constexpr auto kGrace = 500ms;     // for the other ranks to see the alarm and write their records
constexpr auto kLongest = 1500ms;  // a full disk or a dead file system must not keep a process from ending

double seconds(int64_t ns) { return std::round(double(ns) * 1e-6) / 1e3; }

std::string size_text(int64_t bytes) {
  char text[32];
  if (bytes < 1000) return cat(bytes, " bytes");
  const double units[] = {1e3, 1e6, 1e9};
  const char* const names[] = {"kB", "MB", "GB"};
  const size_t i = bytes < 1'000'000 ? 0 : bytes < 1'000'000'000 ? 1 : 2;
  std::snprintf(text, sizeof text, "%.1f %s", double(bytes) / units[i], names[i]);
  return text;
}

/// One write, so that lines of several ranks do not mix.
void say(const std::string& line) {
  const std::string text = line + "\n";
  if (write(STDERR_FILENO, text.data(), text.size()) < 0) return;  // nobody is left to be told
}

std::string flight_json(const Watchdog::Flight& f, int64_t now) {
  std::string text =
      cat("{\"group\": ", json_quoted(f.group), ", \"ranks\": ", f.size, ", \"kind\": ", json_quoted(f.kind),
          ", \"number\": ", f.number, ", \"bytes\": ", f.bytes,
          ", \"seconds\": ", seconds((f.end_ns ? f.end_ns : now) - f.begin_ns));
  if (f.end_ns) text += cat(", \"ended_seconds_ago\": ", seconds(now - f.end_ns));
  return text + "}";
}

std::string joined(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += cat(text.empty() ? "" : ",", "\n    ", item);
  return "[" + text + "]";
}

}  // namespace

Watchdog& Watchdog::instance() {
  static Watchdog watchdog;
  return watchdog;
}

void Watchdog::start(Communicator& world, double deadline_s) {
  stop();
  if (world.size() == 1) return;
  rank_ = world.rank();
  hosts_.assign(size_t(world.size()), "unknown");
  hosts_[size_t(rank_)] = host_name();
  deadline_s_ = deadline_s;
  folder_.clear();
  stop_ = false;
  on_ = true;
  if (deadline_s > 0) threads_[0] = std::thread([this] { watch(); });
  threads_[1] = std::thread([this] { listen(); });
  threads_[2] = std::thread([this] { ask(); });
  // The first collective of a job, which is watched too. It is the same one with any deadline: that the ranks
  // were given the same is not known yet.
  std::vector<std::string> hosts = gather_hosts(world);
  std::lock_guard lock(mutex_);
  hosts_ = std::move(hosts);
}

void Watchdog::set_folder(Communicator& world, const std::string& folder) {
  if (!on_) return;
  const std::string logs = folder + "/logs";
  int64_t job = trace::now_ns();
  if (world.rank() == 0) {
    // Without the folder there are no records; the messages come all the same.
    std::error_code ignored;
    std::filesystem::create_directories(logs, ignored);
    for (const auto& entry : std::filesystem::directory_iterator(logs, ignored)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("flight-") || name.starts_with(".alarm-"))
        std::filesystem::remove(entry.path(), ignored);
    }
  }
  world.broadcast(make_tensor(&job, {1}), 0);
  std::lock_guard lock(mutex_);
  job_ = job;
  folder_ = logs;
}

void Watchdog::stop() {
  on_ = false;
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_)
    if (thread.joinable()) thread.join();
  enqueued_.clear();
}

int Watchdog::begin(const Flight& flight) {
  if (!on_.load(std::memory_order_relaxed)) return -1;
  const int64_t now = trace::now_ns();
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < kSlots; i++) {
    if (slots_[i].begin_ns) continue;
    slots_[i] = flight;
    slots_[i].begin_ns = now;
    return int(i);
  }
  return -1;
}

void Watchdog::end(int slot) {
  if (slot < 0) return;
  std::lock_guard lock(mutex_);
  remember(slots_[size_t(slot)]);
  slots_[size_t(slot)].begin_ns = 0;
}

void Watchdog::remember(Flight flight) {
  flight.end_ns = trace::now_ns();
  recent_[size_t(done_++) % kRecent] = flight;
}

void Watchdog::follow(int slot, std::shared_ptr<Pending> pending) {
  if (slot < 0) return;
  std::lock_guard lock(mutex_);
  enqueued_.push_back({slots_[size_t(slot)], std::move(pending)});
  slots_[size_t(slot)].begin_ns = 0;
}

std::vector<Watchdog::Flight> Watchdog::waiting() const {
  std::vector<Flight> all;
  for (const Flight& f : slots_)
    if (f.begin_ns) all.push_back(f);
  // What a group enqueued later waits for its first.
  for (const Enqueued& e : enqueued_)
    if (std::none_of(all.begin(), all.end(), [&](const Flight& f) { return f.group == e.flight.group; }))
      all.push_back(e.flight);
  return all;
}

void Watchdog::watch() {
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kInterval, [this] { return stop_; })) {
    const int64_t now = trace::now_ns();
    for (const Flight& f : slots_)
      if (f.begin_ns && double(now - f.begin_ns) * 1e-9 > deadline_s_) fire("deadline");
    // The oldest comes first, but for what other threads have just enqueued.
    if (!enqueued_.empty() && double(now - enqueued_[0].flight.begin_ns) * 1e-9 > deadline_s_)
      fire("deadline");
  }
}

/// Apart from watch(): a call into a driver whose device hangs may not come back. Without mutex_ while it
/// asks, for the same reason.
void Watchdog::ask() {
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kInterval, [this] { return stop_; })) {
    const std::vector<Enqueued> now(enqueued_.begin(), enqueued_.end());
    std::vector<const Pending*> done;
    lock.unlock();
    std::string failure;
    const Flight* failed = nullptr;
    for (const Enqueued& e : now) {
      if (e.pending->done()) {
        done.push_back(e.pending.get());
      } else if (failure = e.pending->failure(); !failure.empty()) {
        failed = &e.flight;
        break;
      }
    }
    lock.lock();
    for (const Pending* p : done) {
      const auto at = std::find_if(enqueued_.begin(), enqueued_.end(),
                                   [&](const Enqueued& e) { return e.pending.get() == p; });
      if (at == enqueued_.end()) continue;
      remember(at->flight);
      enqueued_.erase(at);
    }
    if (!failed) continue;
    say(cat("jambalaya: rank ", rank_, " on host ", hosts_[size_t(rank_)], ": collective ", failed->number,
            " of group '", failed->group, "' (", failed->kind, ", ", failed->size, " ranks): ", failure));
    fire("error");
  }
}

/// Apart from watch(): behind a cut link even a look at the file system may not come back.
void Watchdog::listen() {
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kInterval, [this] { return stop_; })) {
    if (folder_.empty()) continue;
    const std::string path = alarm_path();
    lock.unlock();
    const bool raised = access(path.c_str(), F_OK) == 0;
    lock.lock();
    if (raised) fire("alarm");
  }
}

/// With mutex_ locked, for good: nothing that this process does counts any more.
void Watchdog::fire(const char* reason) {
  std::thread([] {
    std::this_thread::sleep_for(kLongest);
    _exit(int(Exit::peer_lost));
  }).detach();
  const int64_t now = trace::now_ns();
  const bool first = raise_alarm();
  if (!first && verdict_is_out()) {
    say(cat("jambalaya: rank ", rank_, " on host ", hosts_[size_t(rank_)],
            " woke up after the others had given up"));
    _exit(int(Exit::peer_lost));
  }
  say(complaint(now));
  if (!folder_.empty()) {
    const std::string path = record_path(rank_), temporary = path + ".tmp";
    std::ofstream(temporary) << record(reason, now);
    if (std::rename(temporary.c_str(), path.c_str()) != 0)
      say(cat("jambalaya: ", path, " cannot be written"));
  }
  std::this_thread::sleep_for(kGrace);
  if (first) {
    const std::string verdict = silent_ranks();
    say(verdict);
    std::ofstream(alarm_path()) << verdict << '\n';
  }
  _exit(int(Exit::peer_lost));
}

/// True on the one rank that raised it.
bool Watchdog::raise_alarm() const {
  if (folder_.empty()) return false;
  const int alarm = open(alarm_path().c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
  if (alarm >= 0) close(alarm);
  return alarm >= 0;
}

/// A stopped rank is continued when mpirun ends it, and must not pass for one that answered.
bool Watchdog::verdict_is_out() const {
  std::error_code missing;
  return !folder_.empty() && std::filesystem::file_size(alarm_path(), missing) > 0 && !missing;
}

std::string Watchdog::complaint(int64_t now) const {
  std::string text;
  for (const Flight& f : waiting())
    text += cat(text.empty() ? "" : ", and", " waits since ", seconds(now - f.begin_ns), " s in collective ",
                f.number, " of group '", f.group, "' (", f.kind, ", ", f.size, " ranks, sends ",
                size_text(f.bytes), ")");
  if (text.empty()) text = " is in no collective while others wait";
  const int64_t step = step_;
  return cat("jambalaya: rank ", rank_, " on host ", hosts_[size_t(rank_)], text,
             step >= 0 ? cat(", step ", step) : "",
             deadline_s_ > 0 ? cat("; deadline ", deadline_s_, " s: exit 7") : "; no deadline: exit 7");
}

std::string Watchdog::record(const char* reason, int64_t now) const {
  std::vector<std::string> in_flight, done;
  for (const Flight& f : waiting()) in_flight.push_back(flight_json(f, now));
  for (int64_t i = std::max<int64_t>(0, done_ - int64_t(kRecent)); i < done_; i++)
    done.push_back(flight_json(recent_[size_t(i) % kRecent], now));
  return cat("{\n  \"rank\": ", rank_, ",\n  \"host\": ", json_quoted(hosts_[size_t(rank_)]),
             ",\n  \"ranks\": ", hosts_.size(), ",\n  \"step\": ", step_.load(),
             ",\n  \"reason\": ", json_quoted(reason), ",\n  \"deadline_seconds\": ", deadline_s_,
             ",\n  \"waiting\": ", joined(in_flight), ",\n  \"recent\": ", joined(done), "\n}\n");
}

std::string Watchdog::silent_ranks() const {
  std::string silent;
  for (size_t r = 0; r < hosts_.size(); r++)
    if (access(record_path(int(r)).c_str(), F_OK) != 0)
      silent += cat(silent.empty() ? "" : ", ", r, " on host ", hosts_[r]);
  if (silent.empty()) return cat("jambalaya: every rank left a flight record in ", folder_);
  return cat("jambalaya: no answer from rank ", silent,
             ": stopped, or cut off; the other ranks' flight records are in ", folder_);
}

std::string Watchdog::record_path(int rank) const {
  char name[32];
  std::snprintf(name, sizeof name, "/flight-%05d.json", rank);
  return folder_ + name;
}

std::string Watchdog::alarm_path() const { return cat(folder_, "/.alarm-", job_); }

}  // namespace jambalaya
