#include "parallel/communicator.h"

#include <cstring>
#include <numeric>

#include "kernels/trace.h"
#include "parallel/device_side.h"
#include "parallel/watchdog.h"

namespace jambalaya {

const char* name_of(Collective kind) {
  constexpr const char* names[kCollectives] = {"all-reduce", "all-gather", "reduce-scatter",
                                               "all-to-all", "shift",      "broadcast",
                                               "barrier",    "split",      "finish"};
  return names[size_t(kind)];
}

Communicator::Communicator(std::string name, std::unique_ptr<HostBackend> host)
    : name_(std::move(name)),
      label_(trace::intern(name_)),
      rank_(host ? host->rank() : 0),
      size_(host ? host->size() : 1),
      host_(std::move(host)) {}

Communicator::~Communicator() = default;

void Communicator::attach(const DeviceLink& link, Accelerator::Stream stream) {
  device_ = std::make_shared<DeviceSide>(link, stream, host_.get(), name_);
}

bool Communicator::on_device(const Tensor& x) const {
  JAMBALAYA_CHECK(x.device == Device::cpu || device_, "group ", name_, " has no device for ", x.describe());
  return x.device == Device::cuda;
}

CollectiveBackend& Communicator::backend(bool device) const {
  return device ? static_cast<CollectiveBackend&>(*device_->backend()) : *host_;
}

void Communicator::copy(const Tensor& in, const Tensor& out) const {
  if (on_device(in)) return device_->copy(in, out);
  if (in.bytes() && in.data != out.data) std::memmove(out.data, in.data, size_t(in.bytes()));
}

int64_t Communicator::bytes() const {
  int64_t sum = 0;
  for (const CollectiveCount& c : counts_) sum += c.bytes;
  return sum;
}

/// Groups of one rank neither wait nor send: they are numbered, and that is all.
class Communicator::Call {
 public:
  Call(Communicator& group, Collective kind, int64_t bytes, bool device = false)
      : group_(group), kind_(kind), device_(device) {
    group.calls_++;
    CollectiveCount& count = group.counts_[size_t(kind)];
    count.calls++;
    if (group.size_ == 1) return;
    count.bytes += bytes;
    slot_ = Watchdog::instance().begin({.group = group.label_,
                                        .size = group.size_,
                                        .kind = name_of(kind),
                                        .number = group.calls_,
                                        .bytes = bytes});
    if (trace::on())
      event_ = {.name = name_of(kind),
                .category = "communication",
                .begin_ns = trace::now_ns(),
                .group = group.label_,
                .number = group.calls_,
                .bytes = bytes};
  }
  ~Call() {
    if (slot_ >= 0) Watchdog::instance().end(slot_);  // unless it was handed over
    if (event_.begin_ns == 0) return;
    event_.end_ns = trace::now_ns();
    trace::record(event_);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  /// move(backend) moves the data, or enqueues that it is moved: then the watchdog follows the device.
  template <class F>
  void run(const F& move) {
    try {
      move(group_.backend(device_));
    } catch (const Error& e) {
      throw Error(e.exit(), cat("collective ", group_.calls_, " of group '", group_.name_, "' (",
                                name_of(kind_), ", ", group_.size_, " ranks): ", e.what()));
    }
    if (!device_ || slot_ < 0) return;
    Watchdog::instance().follow(slot_, group_.device_->pending());
    slot_ = -1;
  }

 private:
  Communicator& group_;
  Collective kind_;
  bool device_;
  int slot_ = -1;
  trace::Event event_;
};

namespace {

/// All elements in one dimension.
Tensor flat(const Tensor& x) { return make_tensor(x.data, x.dtype, {x.numel()}, x.device); }

int64_t sum_of(const std::vector<int64_t>& rows) {
  return std::accumulate(rows.begin(), rows.end(), int64_t(0));
}

bool negative(const std::vector<int64_t>& rows) {
  for (int64_t n : rows)
    if (n < 0) return true;
  return false;
}

}  // namespace

void Communicator::all_reduce(Tensor x, Reduce op) {
  JAMBALAYA_CHECK(x.packed() && x.dtype != DType::u16, "all-reduce of ", x.describe());
  const int64_t n = x.numel(), width = size_of(x.dtype);
  const int64_t own = n * (rank_ + 1) / size_ - n * rank_ / size_;
  Call call(*this, Collective::all_reduce, (n - own + own * (size_ - 1)) * width, on_device(x));
  if (size_ > 1 && n > 0) call.run([&](CollectiveBackend& b) { b.all_reduce(flat(x), op); });
}

void Communicator::all_gather(Tensor in, Tensor out) {
  equal_rows_.assign(size_t(size_), in.numel());
  JAMBALAYA_CHECK(in.packed() && out.packed());
  all_gather_rows(flat(in), flat(out), equal_rows_);
}

void Communicator::all_gather_rows(Tensor in, Tensor out, const std::vector<int64_t>& rows) {
  JAMBALAYA_CHECK(in.packed() && out.packed() && in.dtype == out.dtype && in.device == out.device &&
                  in.columns() == out.columns());
  JAMBALAYA_CHECK(int(rows.size()) == size_ && !negative(rows) && in.rows() == rows[size_t(rank_)] &&
                      out.rows() == sum_of(rows),
                  "all-gather of ", in.describe(), " into ", out.describe());
  Call call(*this, Collective::all_gather, in.bytes() * (size_ - 1), on_device(out));
  if (size_ == 1) return copy(in, out);
  call.run([&](CollectiveBackend& b) { b.all_gather(in, out, rows); });
}

void Communicator::reduce_scatter(Tensor in, Tensor out) {
  equal_rows_.assign(size_t(size_), out.numel());
  JAMBALAYA_CHECK(in.packed() && out.packed());
  reduce_scatter_rows(flat(in), flat(out), equal_rows_);
}

void Communicator::reduce_scatter_rows(Tensor in, Tensor out, const std::vector<int64_t>& rows) {
  JAMBALAYA_CHECK(in.packed() && out.packed() && in.dtype == out.dtype && in.device == out.device &&
                  in.columns() == out.columns() && in.dtype != DType::u16);
  JAMBALAYA_CHECK(int(rows.size()) == size_ && !negative(rows) && out.rows() == rows[size_t(rank_)] &&
                      in.rows() == sum_of(rows),
                  "reduce-scatter of ", in.describe(), " into ", out.describe());
  Call call(*this, Collective::reduce_scatter, in.bytes() - out.bytes(), on_device(in));
  if (size_ == 1) return copy(in, out);
  call.run([&](CollectiveBackend& b) { b.reduce_scatter(in, out, rows); });
}

void Communicator::all_to_all(Tensor in, Tensor out) {
  JAMBALAYA_CHECK(in.packed() && out.packed() && in.dtype == out.dtype && in.device == out.device &&
                      in.numel() == out.numel() && in.numel() % size_ == 0,
                  "all-to-all of ", in.describe(), " into ", out.describe());
  const auto* from = static_cast<const char*>(in.data);
  const auto* to = static_cast<const char*>(out.data);
  JAMBALAYA_CHECK(from + in.bytes() <= to || to + out.bytes() <= from, "all-to-all in place");
  Call call(*this, Collective::all_to_all, in.bytes() / size_ * (size_ - 1), on_device(in));
  if (size_ == 1) return copy(flat(in), flat(out));
  if (in.numel() > 0) call.run([&](CollectiveBackend& b) { b.all_to_all_equal(flat(in), flat(out)); });
}

void Communicator::all_to_all(Tensor in, const std::vector<int64_t>& send_rows, Tensor out,
                              const std::vector<int64_t>& receive_rows) {
  JAMBALAYA_CHECK(in.rows() == sum_of(send_rows), "all-to-all of ", in.describe());
  starts_.clear();
  int64_t at = 0;
  for (int64_t n : send_rows) {
    starts_.push_back(at);
    at += n;
  }
  all_to_all(in, starts_, send_rows, out, receive_rows);
}

void Communicator::all_to_all(Tensor in, const std::vector<int64_t>& send_starts,
                              const std::vector<int64_t>& send_rows, Tensor out,
                              const std::vector<int64_t>& receive_rows) {
  JAMBALAYA_CHECK(in.packed() && out.packed() && in.dtype == out.dtype && in.device == out.device &&
                  in.columns() == out.columns());
  JAMBALAYA_CHECK(int(send_starts.size()) == size_ && int(send_rows.size()) == size_ &&
                  int(receive_rows.size()) == size_ && !negative(send_rows) && !negative(receive_rows));
  JAMBALAYA_CHECK(out.rows() == sum_of(receive_rows) &&
                  receive_rows[size_t(rank_)] == send_rows[size_t(rank_)]);
  int64_t others = 0;
  for (int r = 0; r < size_; r++) {
    const int64_t begin = send_starts[size_t(r)], n = send_rows[size_t(r)];
    JAMBALAYA_CHECK(n == 0 || (begin >= 0 && begin + n <= in.rows()), "rows for rank ", r, " lie outside");
    if (r != rank_) others += n;
  }
  Call call(*this, Collective::all_to_all, others * in.columns() * size_of(in.dtype), on_device(in));
  if (size_ == 1) return copy(in.slice_rows(send_starts[0], send_starts[0] + send_rows[0]), out);
  call.run([&](CollectiveBackend& b) { b.all_to_all(in, send_starts, send_rows, out, receive_rows); });
}

void Communicator::shift(Tensor in, Tensor out) {
  JAMBALAYA_CHECK(in.packed() && out.packed() && in.dtype == out.dtype && in.device == out.device);
  JAMBALAYA_CHECK(size_ > 1 || in.bytes() == out.bytes(), "shift of ", in.describe(), " into ",
                  out.describe());
  Call call(*this, Collective::shift, in.bytes(), on_device(in));
  if (size_ == 1) return copy(in, out);
  call.run([&](CollectiveBackend& b) { b.shift(in, out); });
}

void Communicator::broadcast(Tensor x, int root) {
  JAMBALAYA_CHECK(x.packed() && root >= 0 && root < size_);
  Call call(*this, Collective::broadcast, rank_ == root ? x.bytes() * (size_ - 1) : 0, on_device(x));
  if (size_ > 1 && x.bytes() > 0) call.run([&](CollectiveBackend& b) { b.broadcast(x, root); });
}

void Communicator::barrier() {
  Call call(*this, Collective::barrier, 0);
  if (size_ > 1) call.run([&](CollectiveBackend&) { host_->barrier(); });
}

std::unique_ptr<Communicator> Communicator::split(int color, const std::string& name) {
  Call call(*this, Collective::split, 0);
  std::unique_ptr<HostBackend> group;
  if (size_ > 1) call.run([&](CollectiveBackend&) { group = host_->split(color); });
  return std::make_unique<Communicator>(name, std::move(group));
}

void broadcast_string(Communicator& world, std::string& text, int root) {
  int64_t size = int64_t(text.size());
  world.broadcast(make_tensor(&size, {1}), root);
  text.resize(size_t(size));
  if (size) world.broadcast(make_tensor(reinterpret_cast<uint8_t*>(text.data()), {size}), root);
}

}  // namespace jambalaya
