#include "parallel/reducer.h"

#include <algorithm>
#include <utility>

#include "kernels/ops.h"
#include "kernels/trace.h"

namespace jambalaya {

namespace {
/// Address space; memory comes when used.
int64_t scratch_capacity(const DeviceLink& link) {
  return link ? link.accelerator->properties().memory_bytes : int64_t(1) << 38;
}
}  // namespace

CommunicationQueue::CommunicationQueue(const DeviceLink& link)
    : link_(link), scratch_("communication scratch", scratch_capacity(link), link.accelerator) {
  context_ = {.ops = link ? &link.accelerator->ops() : &cpu_ops(),
              .device = link ? Device::cuda : Device::cpu,
              .pool = &pool_,
              .scratch = &scratch_,
              .accelerator = link.accelerator,
              .stream = link.communication};
  if (!link_) return;
  for (Accelerator::Event& event : ends_) event = link_.accelerator->new_event();
}

CommunicationQueue::~CommunicationQueue() {
  if (thread_.joinable()) {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  if (link_) release_events();
}

void CommunicationQueue::release_events() {
  try {
    // The scratch arena is still in use on the device. After an error nothing there will come to an end.
    if (!error_) link_.accelerator->synchronize(link_.communication);
    for (Accelerator::Event event : ends_) link_.accelerator->free_event(event);
    for (Accelerator::Event event : pushes_) link_.accelerator->free_event(event);
  } catch (const std::exception&) {
    // The device is lost: whoever waited for it has been told.
  }
}

int64_t CommunicationQueue::push(std::function<void()> job) {
  if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
  std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(error_);
  Job next{std::move(job)};
  if (link_) {
    if (free_.empty()) free_.push_back(pushes_.emplace_back(link_.accelerator->new_event()));
    next.pushed = free_.back();
    free_.pop_back();
    link_.accelerator->record(next.pushed, link_.compute);
  }
  jobs_.push_back(std::move(next));
  changed_.notify_all();
  return ++pushed_;
}

void CommunicationQueue::wait(int64_t job) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return done_ >= job; });
  if (error_) std::rethrow_exception(error_);
  if (link_ && job > 0) link_.accelerator->wait(link_.compute, ends_[size_t(job) % kEnds]);
}

void CommunicationQueue::drain() { wait(pushed_); }

void CommunicationQueue::run(const Job& job, int64_t number) {
  if (link_) link_.accelerator->wait(link_.communication, job.pushed);
  job.run();
  std::lock_guard lock(mutex_);
  if (!link_) return;
  free_.push_back(job.pushed);  // the stream waits for what was recorded in it, not for what will be
  link_.accelerator->record(ends_[size_t(number) % kEnds], link_.communication);
}

void CommunicationQueue::work() {
  trace::name_thread("communication");
  if (link_) link_.accelerator->bind_thread();  // jobs start ops
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    const int64_t number = done_ + 1;
    lock.unlock();
    std::exception_ptr error;
    try {
      run(job, number);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    done_++;
    if (error) {
      error_ = error;  // and no job is taken in after it
      done_ += int64_t(jobs_.size());
      jobs_.clear();
    }
    changed_.notify_all();
  }
}

GradientReducer::GradientReducer(CommunicationQueue& queue, Communicator& ranks, Tensor gradients,
                                 std::vector<Range> groups, int64_t bucket_bytes)
    : queue_(queue),
      ranks_(ranks),
      gradients_(gradients),
      groups_(std::move(groups)),
      bucket_(std::max<int64_t>(bucket_bytes / 4, 1)) {
  int64_t at = 0;
  for (const Range& r : groups_) {
    JAMBALAYA_CHECK(r.begin == at && r.end >= r.begin, "groups tile the gradients in order");
    at = r.end;
  }
  JAMBALAYA_CHECK(at == gradients_.numel());
}

void GradientReducer::begin() {
  final_.assign(groups_.size(), 0);
  sent_.assign(groups_.size(), 0);
}

/// Groups first to last, which are neighbours.
void GradientReducer::send(size_t first, size_t last) {
  const Range &from = groups_[first], &to = groups_[last];
  if (from.begin == to.end) return;
  queue_.push([this, part = gradients_.slice_rows(from.begin, to.end), low = from.unit, high = to.unit] {
    const char* name = trace::numbered("reduce gradients of unit", low);
    if (low != high && trace::on()) name = trace::intern(cat(name, " to ", high));
    TraceScope scope(name, "reduce", "unit", low, part.bytes());
    ranks_.all_reduce(part);
  });
}

void GradientReducer::ready(int group) {
  final_[size_t(group)] = 1;
  if (ranks_.size() == 1) return;
  // The run of final, unsent groups around this one. Every rank finishes groups in the same order, so that
  // all send the same buckets in the same order.
  size_t first = size_t(group), last = size_t(group);
  while (first > 0 && final_[first - 1] && !sent_[first - 1]) first--;
  while (last + 1 < groups_.size() && final_[last + 1] && !sent_[last + 1]) last++;
  if (groups_[last].end - groups_[first].begin < bucket_) return;
  std::fill(sent_.begin() + long(first), sent_.begin() + long(last) + 1, 1);
  send(first, last);
}

void GradientReducer::flush() {
  if (ranks_.size() == 1) return;
  for (size_t first = 0; first < groups_.size();) {
    size_t last = first;
    while (last < groups_.size() && !sent_[last]) last++;
    if (last > first) send(first, last - 1);
    first = last + 1;
  }
  std::fill(sent_.begin(), sent_.end(), 1);
}

}  // namespace jambalaya
