// What a communicator needs for tensors in device memory: stream, backend, and events by which the watchdog
// sees how far the device has come with what was enqueued.
#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "parallel/collective_backend.h"
#include "parallel/device_link.h"
#include "parallel/watchdog.h"

namespace jambalaya {

class DeviceSide {
 public:
  /// `host` carries what the ranks must tell each other; null for a group of one, which gets no backend.
  DeviceSide(const DeviceLink& link, Accelerator::Stream stream, HostBackend* host, const std::string& name);
  ~DeviceSide();

  DeviceBackend* backend() const { return backend_.get(); }
  /// Within this rank, in the stream's order.
  void copy(const Tensor& in, const Tensor& out) const;
  /// All that is enqueued on the stream just now, for Watchdog::follow.
  std::shared_ptr<Watchdog::Pending> pending();

 private:
  class State;
  class Mark;

  DeviceLink link_;
  Accelerator::Stream stream_;
  std::unique_ptr<DeviceBackend> backend_;
  std::shared_ptr<State> state_;  ///< shared with what the watchdog follows, which may live longer
};

}  // namespace jambalaya
