// Ranks with a device each: groups that take tensors there, and values in its memory. On the CPU the same
// tests use host memory.
#pragma once
#include <string>
#include <vector>

#include "kernels/transfer.h"
#include "tests/support/device_link.h"
#include "tests/support/ranks.h"

namespace jambalaya::test {

/// A group of the world for the computing thread, or for the communication thread.
inline std::unique_ptr<Communicator> make_group(int color, const std::string& name, bool computes = true) {
  std::unique_ptr<Communicator> group = world().split(color, name);
  const DeviceLink& link = device_link();
  if (link) group->attach(link, computes ? link.compute : link.communication);
  return group;
}
inline void attach_world() {
  if (device_link()) world().attach(device_link(), device_link().compute);
}

/// For copies by the computing thread, or by the communication thread.
inline Context copying_context(bool computes = true) {
  const DeviceLink& link = device_link();
  return {.device = link ? Device::cuda : Device::cpu,
          .accelerator = link.accelerator,
          .stream = computes ? link.compute : link.communication};
}

/// Elements in the memory of the device under test, copied by the thread that computes, or by the other one.
template <class T>
class Placed {
 public:
  explicit Placed(std::vector<T> values, bool computes = true)
      : host_(std::move(values)), context_(copying_context(computes)) {
    if (!on_device()) return;
    const auto bytes = int64_t(host_.size() * sizeof(T));
    device_ = accelerator().reserve(std::max<int64_t>(bytes, 1));
    accelerator().commit(device_, bytes);
    copy(context_, whole(host_.data(), Device::cpu), whole(device_, Device::cuda));
  }
  ~Placed() {
    if (device_) accelerator().release(device_);
  }
  Placed(const Placed&) = delete;
  Placed& operator=(const Placed&) = delete;

  Tensor tensor() { return tensor({int64_t(host_.size())}); }
  Tensor tensor(std::initializer_list<int64_t> shape, int64_t first = 0) {
    T* data = device_ ? static_cast<T*>(device_) : host_.data();
    return make_tensor(data + first, dtype_of<T>::value, shape, device_ ? Device::cuda : Device::cpu);
  }
  /// As they are once all that was enqueued by this thread is done.
  const std::vector<T>& values() {
    if (!device_) return host_;
    copy(context_, whole(device_, Device::cuda), whole(host_.data(), Device::cpu));
    synchronize(context_);
    return host_;
  }
  void assign(const std::vector<T>& values) {
    host_ = values;
    if (device_) copy(context_, whole(host_.data(), Device::cpu), whole(device_, Device::cuda));
  }

 private:
  Tensor whole(void* data, Device device) const {
    return make_tensor(data, dtype_of<T>::value, {int64_t(host_.size())}, device);
  }
  std::vector<T> host_;
  Context context_;
  void* device_ = nullptr;
};

}  // namespace jambalaya::test
