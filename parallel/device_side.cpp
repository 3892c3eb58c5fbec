#include "parallel/device_side.h"

#include "parallel/communicator_nccl.h"
#include "parallel/communicator_staged.h"

namespace jambalaya {

/// Events, taken by turns. Closed when the communicator goes: the watchdog may look once more after that.
class DeviceSide::State {
 public:
  State(Accelerator* accelerator, DeviceBackend* backend) : accelerator_(accelerator), backend_(backend) {}

  Accelerator::Event record(Accelerator::Stream stream) {
    std::lock_guard lock(mutex_);
    Accelerator::Event event = nullptr;
    if (free_.empty()) {
      event = accelerator_->new_event();
      all_.push_back(event);
    } else {
      event = free_.back();
      free_.pop_back();
    }
    accelerator_->record(event, stream);
    return event;
  }
  void give_back(Accelerator::Event event) {
    std::lock_guard lock(mutex_);
    if (accelerator_) free_.push_back(event);
  }
  bool reached(Accelerator::Event event) {
    std::lock_guard lock(mutex_);
    return !accelerator_ || accelerator_->reached(event);
  }
  std::string failure() {
    std::lock_guard lock(mutex_);
    return accelerator_ && backend_ ? backend_->failure() : "";
  }
  void close() {
    std::lock_guard lock(mutex_);
    for (Accelerator::Event event : all_) accelerator_->free_event(event);
    accelerator_ = nullptr;
  }

 private:
  std::mutex mutex_;
  Accelerator* accelerator_;
  DeviceBackend* backend_;
  std::vector<Accelerator::Event> all_, free_;
};

class DeviceSide::Mark final : public Watchdog::Pending {
 public:
  Mark(std::shared_ptr<State> state, Accelerator::Event event) : state_(std::move(state)), event_(event) {}
  ~Mark() override { state_->give_back(event_); }
  bool done() override {
    try {
      return state_->reached(event_);
    } catch (const std::exception& e) {  // a kernel failed; nobody catches on the watchdog's thread
      lost_ = e.what();
      return false;
    }
  }
  std::string failure() override { return lost_.empty() ? state_->failure() : lost_; }

 private:
  std::shared_ptr<State> state_;
  Accelerator::Event event_;
  std::string lost_;  ///< why the device will not get there
};

DeviceSide::DeviceSide(const DeviceLink& link, Accelerator::Stream stream, HostBackend* host,
                       const std::string& name)
    : link_(link), stream_(stream) {
  if (host) {
    JAMBALAYA_CHECK(link.transport != Transport::automatic, "transport of group ", name,
                    " is not chosen yet");
    backend_ = link.transport == Transport::nccl ? make_nccl_backend(*host, *link.accelerator, stream, name)
                                                 : make_staged_backend(*host, *link.accelerator, stream);
  }
  state_ = std::make_shared<State>(link.accelerator, backend_.get());
}

DeviceSide::~DeviceSide() { state_->close(); }

void DeviceSide::copy(const Tensor& in, const Tensor& out) const {
  if (in.bytes() && in.data != out.data)
    link_.accelerator->copy(out.data, in.bytes(), in.data, in.bytes(), in.bytes(), 1, stream_);
}

std::shared_ptr<Watchdog::Pending> DeviceSide::pending() {
  return std::make_shared<Mark>(state_, state_->record(stream_));
}

}  // namespace jambalaya
