#include "parallel/communicator_staged.h"

#include "parallel/pinned_buffer.h"

namespace jambalaya {

namespace {

class StagedBackend final : public DeviceBackend {
 public:
  StagedBackend(HostBackend& host, Accelerator& accelerator, Accelerator::Stream stream)
      : DeviceBackend(host.rank(), host.size()),
        host_(host),
        accelerator_(accelerator),
        stream_(stream),
        in_(&accelerator),
        out_(&accelerator) {}
  ~StagedBackend() override {
    try {
      accelerator_.synchronize(stream_);  // the last result may still be on its way out of our memory
    } catch (const std::exception&) {
      // The device is lost, and what was lost with it has been told where it was waited for.
    }
  }

  void all_reduce(Tensor x, Reduce op) override {
    const Tensor here = fetch(x);
    host_.all_reduce(here, op);
    bring(here, x);
  }
  void all_gather(Tensor in, Tensor out, const std::vector<int64_t>& rows) override {
    const Tensor from = fetch(in), to = room_for(out);
    host_.all_gather(from, to, rows);
    bring(to, out);
  }
  void reduce_scatter(Tensor in, Tensor out, const std::vector<int64_t>& rows) override {
    const Tensor from = fetch(in), to = room_for(out);
    host_.reduce_scatter(from, to, rows);
    bring(to, out);
  }
  void all_to_all(Tensor in, const std::vector<int64_t>& send_starts, const std::vector<int64_t>& send_rows,
                  Tensor out, const std::vector<int64_t>& receive_rows) override {
    const Tensor from = fetch(in), to = room_for(out);
    host_.all_to_all(from, send_starts, send_rows, to, receive_rows);
    bring(to, out);
  }
  void all_to_all_equal(Tensor in, Tensor out) override {
    const Tensor from = fetch(in), to = room_for(out);
    host_.all_to_all_equal(from, to);
    bring(to, out);
  }
  void shift(Tensor in, Tensor out) override {
    const Tensor from = fetch(in), to = room_for(out);
    host_.shift(from, to);
    bring(to, out);
  }
  void broadcast(Tensor x, int root) override {
    const Tensor here = rank() == root ? fetch(x) : room_for(x);
    host_.broadcast(here, root);
    bring(here, x);
  }

 private:
  /// x in host memory, after all that was enqueued. That includes the last bring(): both buffers are free.
  Tensor fetch(const Tensor& x) {
    accelerator_.synchronize(stream_);
    const Tensor here = at(x, in_.take(x.bytes()));
    if (x.bytes() == 0) return here;
    copy(x, here);
    accelerator_.synchronize(stream_);
    return here;
  }
  Tensor room_for(const Tensor& x) {
    accelerator_.synchronize(stream_);
    return at(x, out_.take(x.bytes()));
  }
  void bring(const Tensor& here, const Tensor& x) {
    if (x.bytes()) copy(here, x);
  }
  void copy(const Tensor& from, const Tensor& to) {
    accelerator_.copy(to.data, to.bytes(), from.data, from.bytes(), from.bytes(), 1, stream_);
  }
  static Tensor at(Tensor x, void* memory) {
    x.data = memory, x.device = Device::cpu, x.row_stride = x.columns();
    return x;
  }

  HostBackend& host_;
  Accelerator& accelerator_;
  Accelerator::Stream stream_;
  PinnedBuffer in_, out_;
};

}  // namespace

std::unique_ptr<DeviceBackend> make_staged_backend(HostBackend& host, Accelerator& accelerator,
                                                   Accelerator::Stream stream) {
  return std::make_unique<StagedBackend>(host, accelerator, stream);
}

}  // namespace jambalaya
