#include "kernels/trace.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "kernels/error.h"
#include "kernels/json_text.h"

namespace jambalaya::trace {

namespace detail {
std::atomic<bool> recording{false};
}

namespace {

constexpr size_t kMostEvents = size_t(1) << 20;

/// Filled by one thread; the lock is for the one that takes the events.
struct ThreadEvents {
  std::mutex mutex;
  std::vector<Event> events;
  int64_t dropped = 0;
  std::string name;
};

std::atomic<int64_t> started{0};

int64_t unix_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

struct Registry {
  std::mutex mutex;
  std::vector<std::shared_ptr<ThreadEvents>> threads;  ///< also of threads that have ended
  std::set<std::string> texts;
};
Registry& registry() {
  static auto* const all = new Registry;  // never destroyed: threads may outlive main's statics
  return *all;
}

ThreadEvents& mine() {
  thread_local const std::shared_ptr<ThreadEvents> list = [] {
    auto made = std::make_shared<ThreadEvents>();
    std::lock_guard lock(registry().mutex);
    made->name = gettid() == getpid() ? "main" : cat("thread ", registry().threads.size());
    registry().threads.push_back(made);
    return made;
  }();
  return *list;
}

std::string microseconds(int64_t ns) {
  char text[40];
  std::snprintf(text, sizeof text, "%s%lld.%03lld", ns < 0 ? "-" : "", std::llabs(ns / 1000),
                std::llabs(ns % 1000));
  return text;
}

std::string element(const Event& e, int rank, size_t thread, int64_t shift_ns) {
  std::string text =
      cat(",\n{\"name\":", json_quoted(e.name), ",\"cat\":", json_quoted(e.category),
          ",\"ph\":\"X\",\"pid\":", rank, ",\"tid\":", thread,
          ",\"ts\":", microseconds(e.begin_ns + shift_ns), ",\"dur\":", microseconds(e.end_ns - e.begin_ns));
  if (e.group)
    text += cat(",\"args\":{\"group\":", json_quoted(e.group), ",\"number\":", e.number,
                ",\"bytes\":", e.bytes, "}");
  else if (e.counts)
    text += cat(",\"args\":{", json_quoted(e.counts), ":", e.number,
                e.bytes ? cat(",\"bytes\":", e.bytes) : "", "}");
  return text + "}";
}

std::string naming(const char* what, int rank, size_t thread, const std::string& name) {
  return cat(",\n{\"name\":\"", what, "\",\"ph\":\"M\",\"pid\":", rank, ",\"tid\":", thread,
             ",\"args\":{\"name\":", json_quoted(name), "}}");
}

}  // namespace

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void start() {
  started = unix_ns();
  {
    std::lock_guard lock(registry().mutex);
    for (const auto& thread : registry().threads) {
      std::lock_guard own(thread->mutex);
      thread->events.clear();
      thread->dropped = 0;
    }
  }
  detail::recording = true;
}

void stop() { detail::recording = false; }

void record(const Event& event) {
  ThreadEvents& list = mine();
  std::lock_guard lock(list.mutex);
  if (list.events.size() < kMostEvents)
    list.events.push_back(event);
  else
    list.dropped++;
}

void name_thread(const std::string& name) {
  ThreadEvents& list = mine();
  std::lock_guard lock(list.mutex);
  list.name = name;
}

const char* intern(const std::string& text) {
  std::lock_guard lock(registry().mutex);
  return registry().texts.insert(text).first->c_str();
}

const char* numbered(const char* what, int64_t number) { return on() ? intern(cat(what, " ", number)) : ""; }

int64_t started_ns() { return started; }

std::vector<Event> events_of_this_thread(int64_t* dropped) {
  ThreadEvents& list = mine();
  std::lock_guard lock(list.mutex);
  if (dropped) *dropped = list.dropped;
  return list.events;
}

std::string take_events(int rank, const std::string& process, int64_t origin_ns) {
  const int64_t shift_ns = unix_ns() - now_ns() - origin_ns;
  std::string text = naming("process_name", rank, 0, process);
  std::lock_guard lock(registry().mutex);
  for (size_t i = 0; i < registry().threads.size(); i++) {
    ThreadEvents& thread = *registry().threads[i];
    std::lock_guard own(thread.mutex);
    if (thread.events.empty()) continue;
    text += naming("thread_name", rank, i, thread.name);
    for (const Event& e : thread.events) text += element(e, rank, i, shift_ns);
    if (thread.dropped) {
      const std::string note = cat("and ", thread.dropped, " more events");
      const int64_t at = thread.events.back().end_ns;
      text += element({.name = note.c_str(), .category = "trace", .begin_ns = at, .end_ns = at}, rank, i,
                      shift_ns);
    }
    thread.events.clear();
    thread.dropped = 0;
  }
  return text;
}

}  // namespace jambalaya::trace
