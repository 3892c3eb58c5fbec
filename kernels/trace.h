// What every thread did and when, as events for a trace viewer (Perfetto, chrome://tracing). Recording is off
// unless start() was called; then a scope costs one branch. Events are kept in memory, a list for each
// thread, until they are taken. Format: Chrome's "Trace Event Format", complete events ("ph": "X").
#pragma once
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace jambalaya {

namespace trace {

/// `name`, `category` and `group` are not copied: string literals, or texts that intern() keeps.
struct Event {
  const char* name = "";
  const char* category = "";
  int64_t begin_ns = 0, end_ns = 0;  ///< of the steady clock
  const char* group = nullptr;       ///< collectives: the communicator's name
  const char* counts = nullptr;      ///< without a group: what `number` counts ("layer", "step")
  int64_t number = 0;                ///< collectives: of the call in its group
  int64_t bytes = 0;                 ///< collectives: what this rank sends; else: of what the scope moves
};

namespace detail {
extern std::atomic<bool> recording;
}

inline bool on() { return detail::recording.load(std::memory_order_relaxed); }
/// Begins a recording; events of an earlier one that were not taken are dropped.
void start();
void stop();
/// Now, in nanoseconds of the steady clock.
int64_t now_ns();
/// Adds an event to the calling thread's list. A thread keeps the first 2^20; later ones are counted.
void record(const Event& event);
/// The name under which this thread's events are shown; threads without one are numbered.
void name_thread(const std::string& name);
/// A copy of `text` that lives as long as the process; equal texts share one.
const char* intern(const std::string& text);
/// "what number", interned; "" while nothing is recorded.
const char* numbered(const char* what, int64_t number);

/// The events so far as elements of a Chrome trace array, each with a comma before it, and forgets them.
/// `rank` becomes the process id, `process` its name. Times are microseconds since `origin_ns` (Unix time),
/// so that events of several processes lie side by side as well as their hosts' clocks agree.
std::string take_events(int rank, const std::string& process, int64_t origin_ns);
/// The calling thread's events so far, in the order of their ends; they stay where they are. `dropped`: how
/// many more there were.
std::vector<Event> events_of_this_thread(int64_t* dropped = nullptr);
/// Unix time of start(), in nanoseconds.
int64_t started_ns();

}  // namespace trace

/// The time from here to the end of the block: TraceScope scope("mlp forward", "compute", "layer", 3).
/// The summary (scripts/trace_summary) goes by the category: "compute" is work that communication can hide
/// under, "wait" is what was not hidden.
class TraceScope {
 public:
  TraceScope(const char* name, const char* category) {
    if (trace::on()) event_ = {.name = name, .category = category, .begin_ns = trace::now_ns()};
  }
  TraceScope(const char* name, const char* category, const char* counts, int64_t number, int64_t bytes = 0)
      : TraceScope(name, category) {
    event_.counts = counts, event_.number = number, event_.bytes = bytes;
  }
  ~TraceScope() {
    if (event_.begin_ns == 0) return;
    event_.end_ns = trace::now_ns();
    trace::record(event_);
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  trace::Event event_;
};

}  // namespace jambalaya
