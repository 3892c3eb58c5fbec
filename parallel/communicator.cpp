#include "parallel/communicator.h"

#include <cstring>
#include <numeric>

#include "kernels/trace.h"
#include "parallel/watchdog.h"

namespace jambalaya {

const char* name_of(Collective kind) {
  constexpr const char* names[kCollectives] = {"all-reduce", "all-gather", "reduce-scatter",
                                               "all-to-all", "shift",      "broadcast",
                                               "barrier",    "split",      "finish"};
  return names[size_t(kind)];
}

Communicator::Communicator(std::string name, int rank, int size)
    : name_(std::move(name)), label_(trace::intern(name_)), rank_(rank), size_(size) {}

int64_t Communicator::bytes() const {
  int64_t sum = 0;
  for (const CollectiveCount& c : counts_) sum += c.bytes;
  return sum;
}

/// Groups of one rank neither wait nor send: they are numbered, and that is all.
class Communicator::Call {
 public:
  Call(Communicator& group, Collective kind, int64_t bytes) {
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
    if (slot_ >= 0) Watchdog::instance().end(slot_);
    if (event_.begin_ns == 0) return;
    event_.end_ns = trace::now_ns();
    trace::record(event_);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

 private:
  int slot_ = -1;
  trace::Event event_;
};

namespace {

/// All elements in one dimension.
Tensor flat(const Tensor& x) { return make_tensor(x.data, x.dtype, {x.numel()}, x.device); }

void copy(const Tensor& in, const Tensor& out) {
  if (in.bytes() && in.data != out.data) std::memmove(out.data, in.data, size_t(in.bytes()));
}

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
  const Call call(*this, Collective::all_reduce, (n - own + own * (size_ - 1)) * width);
  if (size_ > 1 && n > 0) do_all_reduce(flat(x), op);
}

void Communicator::all_gather(Tensor in, Tensor out) {
  equal_rows_.assign(size_t(size_), in.numel());
  JAMBALAYA_CHECK(in.packed() && out.packed());
  all_gather_rows(flat(in), flat(out), equal_rows_);
}

void Communicator::all_gather_rows(Tensor in, Tensor out, const std::vector<int64_t>& rows) {
  JAMBALAYA_CHECK(in.packed() && out.packed() && in.dtype == out.dtype && in.columns() == out.columns());
  JAMBALAYA_CHECK(int(rows.size()) == size_ && !negative(rows) && in.rows() == rows[size_t(rank_)] &&
                      out.rows() == sum_of(rows),
                  "all-gather of ", in.describe(), " into ", out.describe());
  const Call call(*this, Collective::all_gather, in.bytes() * (size_ - 1));
  if (size_ == 1)
    copy(in, out);
  else
    do_all_gather(in, out, rows);
}

void Communicator::reduce_scatter(Tensor in, Tensor out) {
  equal_rows_.assign(size_t(size_), out.numel());
  JAMBALAYA_CHECK(in.packed() && out.packed());
  reduce_scatter_rows(flat(in), flat(out), equal_rows_);
}

void Communicator::reduce_scatter_rows(Tensor in, Tensor out, const std::vector<int64_t>& rows) {
  JAMBALAYA_CHECK(in.packed() && out.packed() && in.dtype == out.dtype && in.columns() == out.columns() &&
                  in.dtype != DType::u16);
  JAMBALAYA_CHECK(int(rows.size()) == size_ && !negative(rows) && out.rows() == rows[size_t(rank_)] &&
                      in.rows() == sum_of(rows),
                  "reduce-scatter of ", in.describe(), " into ", out.describe());
  const Call call(*this, Collective::reduce_scatter, in.bytes() - out.bytes());
  if (size_ == 1)
    copy(in, out);
  else
    do_reduce_scatter(in, out, rows);
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
  JAMBALAYA_CHECK(in.packed() && out.packed() && in.dtype == out.dtype && in.columns() == out.columns());
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
  const Call call(*this, Collective::all_to_all, others * in.columns() * size_of(in.dtype));
  if (size_ == 1)
    copy(in.slice_rows(send_starts[0], send_starts[0] + send_rows[0]), out);
  else
    do_all_to_all(in, send_starts, send_rows, out, receive_rows);
}

void Communicator::shift(Tensor in, Tensor out) {
  JAMBALAYA_CHECK(in.packed() && out.packed() && in.dtype == out.dtype);
  JAMBALAYA_CHECK(size_ > 1 || in.bytes() == out.bytes(), "shift of ", in.describe(), " into ",
                  out.describe());
  const Call call(*this, Collective::shift, in.bytes());
  if (size_ == 1)
    copy(in, out);
  else
    do_shift(in, out);
}

void Communicator::broadcast(Tensor x, int root) {
  JAMBALAYA_CHECK(x.packed() && root >= 0 && root < size_);
  const Call call(*this, Collective::broadcast, rank_ == root ? x.bytes() * (size_ - 1) : 0);
  if (size_ > 1 && x.bytes() > 0) do_broadcast(x, root);
}

void Communicator::barrier() {
  const Call call(*this, Collective::barrier, 0);
  if (size_ > 1) do_barrier();
}

std::unique_ptr<Communicator> Communicator::split(int color, const std::string& name) {
  const Call call(*this, Collective::split, 0);
  return do_split(color, name);
}

void broadcast_string(Communicator& world, std::string& text, int root) {
  int64_t size = int64_t(text.size());
  world.broadcast(make_tensor(&size, {1}), root);
  text.resize(size_t(size));
  if (size) world.broadcast(make_tensor(reinterpret_cast<uint8_t*>(text.data()), {size}), root);
}

}  // namespace jambalaya
