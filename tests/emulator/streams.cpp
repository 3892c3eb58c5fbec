#include "tests/emulator/streams.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <vector>

#include "tests/emulator/memory.h"

namespace emulator {
namespace {

constexpr auto kPatience = std::chrono::milliseconds(300);

bool eager() {
  static const bool on = [] {
    const char* value = std::getenv("JAMBALAYA_EMULATOR_EAGER");
    return value && std::strcmp(value, "0") != 0;
  }();
  return on;
}

}  // namespace

/// All streams, and the thread that looks for stuck ones. Never destroyed: it may outlive main().
class Helpers {
 public:
  static Helpers& get() {
    static Helpers* const all = new Helpers;
    return *all;
  }
  void add(const std::shared_ptr<Stream>& stream) {
    std::lock_guard lock(mutex_);
    std::erase_if(streams_, [](const auto& s) { return s.expired(); });
    streams_.push_back(stream);
  }
  std::vector<std::shared_ptr<Stream>> streams() {
    std::vector<std::shared_ptr<Stream>> alive;
    std::lock_guard lock(mutex_);
    for (const auto& weak : streams_)
      if (auto stream = weak.lock()) alive.push_back(std::move(stream));
    return alive;
  }

 private:
  Helpers() {
    std::thread([this] { watch(); }).detach();
  }

  [[noreturn]] void watch() {
    for (;;) {
      std::this_thread::sleep_for(kPatience / 3);
      const auto all = streams();
      const auto now = Stream::Clock::now();
      if (std::any_of(all.begin(), all.end(), [&](const auto& s) { return s->stuck(now); }))
        for (const auto& stream : all) help(stream);
    }
  }

  static void help(const std::shared_ptr<Stream>& stream) {
    uint64_t last;
    {
      std::lock_guard lock(stream->mutex_);
      if (stream->helped_ || stream->running_ || stream->executed_ == stream->enqueued_) return;
      stream->helped_ = true;
      last = stream->enqueued_;
    }
    std::thread([stream, last] {
      stream->run(last);
      std::lock_guard lock(stream->mutex_);
      stream->helped_ = false;
    }).detach();
  }

  std::mutex mutex_;
  std::vector<std::weak_ptr<Stream>> streams_;
};

std::shared_ptr<Stream> Stream::make() {
  auto stream = std::make_shared<Stream>();
  Helpers::get().add(stream);
  return stream;
}

bool Stream::run_all() {
  bool whole = true;
  for (const auto& stream : Helpers::get().streams()) whole &= stream->finish();
  return whole;
}

uint64_t Stream::enqueue(std::function<void()> task) {
  uint64_t number;
  {
    std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    number = ++enqueued_;
  }
  if (eager()) run(number);
  return number;
}

uint64_t Stream::last() const {
  std::lock_guard lock(mutex_);
  return enqueued_;
}

void Stream::run(uint64_t number) {
  std::optional<DeviceAccess> access;
  std::unique_lock lock(mutex_);
  while (executed_ < number) {
    if (running_) {
      if (runner_ == std::this_thread::get_id())
        throw std::logic_error("emulated device: a task waits for its own stream");
      changed_.wait(lock);
      continue;
    }
    std::function<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    const bool dropped = bool(failure_);
    running_ = true, runner_ = std::this_thread::get_id(), since_ = Clock::now();
    lock.unlock();
    std::exception_ptr failure;
    if (!dropped) try {
        if (!access) access.emplace();
        task();
      } catch (...) {
        failure = std::current_exception();
      }
    task = nullptr;  // its captures may take locks of their own
    lock.lock();
    if (failure) failure_ = failure;
    executed_++, running_ = false, asked_ = false;
    changed_.notify_all();
  }
}

void Stream::run_until(uint64_t number) {
  run(number);
  std::lock_guard lock(mutex_);
  if (failure_) std::rethrow_exception(failure_);
}

void Stream::synchronize(uint64_t number) {
  run(number);
  std::exception_ptr failure;
  {
    std::lock_guard lock(mutex_);
    std::swap(failure, failure_);
  }
  if (failure) std::rethrow_exception(failure);
}

bool Stream::finish() {
  run(last());
  std::lock_guard lock(mutex_);
  return !failure_;
}

bool Stream::reached(uint64_t number) {
  std::lock_guard lock(mutex_);
  if (executed_ >= number) return true;
  if (!asked_) asked_ = true, asked_since_ = Clock::now();
  return false;
}

bool Stream::stuck(Clock::time_point now) const {
  std::lock_guard lock(mutex_);
  return (running_ && now - since_ > kPatience) || (asked_ && now - asked_since_ > kPatience);
}

}  // namespace emulator
