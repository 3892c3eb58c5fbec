// Collectives of ranks in host memory, over Open MPI.
//
// Sums are taken in rank order whatever algorithm MPI would choose: parts are exchanged, and each rank adds
// its part in rank order. That moves as many bytes as a ring and gives the same bits every time. Everything
// of variable size is one `exchange` of messages between pairs of ranks, cut into pieces that MPI's int
// counts can hold.
#include <mpi.h>

#include <algorithm>
#include <cstring>

#include "parallel/accumulate.h"
#include "parallel/communicator.h"
#include "parallel/watchdog.h"

namespace jambalaya {

namespace {

void check_mpi(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Error(Exit::peer_lost, cat(what, " failed: ", std::string(text, size_t(length))));
}

class MpiBackend final : public HostBackend {
 public:
  MpiBackend(MPI_Comm comm, int rank, int size, bool owned)
      : HostBackend(rank, size), comm_(comm), owned_(owned) {
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
  }
  ~MpiBackend() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (owned_ && !finalized) MPI_Comm_free(&comm_);
  }

  void all_reduce(Tensor x, Reduce op) override {
    if (x.bytes() <= kSmall) return reduce_small(x, op);
    std::vector<int64_t> rows;
    for (int r = 0; r < size(); r++) rows.push_back(part(x.numel(), r + 1) - part(x.numel(), r));
    const Tensor own = x.slice_rows(part(x.numel(), rank()), part(x.numel(), rank() + 1));
    reduce_parts(x, own, rows, op, "all-reduce");
    gather_parts(own, x, rows, "all-reduce");
  }
  void all_gather(Tensor in, Tensor out, const std::vector<int64_t>& rows) override {
    const bool equal = std::all_of(rows.begin(), rows.end(), [&](int64_t n) { return n == rows[0]; });
    if (!equal || in.bytes() > kSmall || in.bytes() == 0) return gather_parts(in, out, rows, "all-gather");
    const bool in_place = in.data == static_cast<char*>(out.data) + rank() * in.bytes();
    check_mpi(MPI_Allgather(in_place ? MPI_IN_PLACE : in.data, int(in.bytes()), MPI_BYTE, out.data,
                            int(in.bytes()), MPI_BYTE, comm_),
              "all-gather");
  }

  void reduce_scatter(Tensor in, Tensor out, const std::vector<int64_t>& rows) override {
    reduce_parts(in, out, rows, Reduce::sum, "reduce-scatter");
  }

  void all_to_all(Tensor in, const std::vector<int64_t>& send_starts, const std::vector<int64_t>& send_rows,
                  Tensor out, const std::vector<int64_t>& receive_rows) override {
    const int64_t row = in.columns() * size_of(in.dtype);
    set_starts(receive_rows, row);
    const auto* source = static_cast<const char*>(in.data);
    char* target = static_cast<char*>(out.data);
    for (int k = 1; k < size(); k++) {
      const auto r = size_t(from(k));
      post_receive(target + starts_[r], starts_[r + 1] - starts_[r], int(r));
    }
    for (int k = 1; k < size(); k++) {
      const auto r = size_t(to(k));
      post_send(source + send_starts[r] * row, send_rows[r] * row, int(r));
    }
    const auto self = size_t(rank());
    if (send_rows[self] > 0)
      std::memcpy(target + starts_[self], source + send_starts[self] * row, size_t(send_rows[self] * row));
    finish_exchange("all-to-all");
  }

  void all_to_all_equal(Tensor in, Tensor out) override {
    const int64_t block = in.bytes() / size();
    if (block <= kSmall) {
      check_mpi(MPI_Alltoall(in.data, int(block), MPI_BYTE, out.data, int(block), MPI_BYTE, comm_),
                "all-to-all");
      return;
    }
    const std::vector<int64_t> rows(size_t(size()), in.numel() / size());
    std::vector<int64_t> starts;
    for (int r = 0; r < size(); r++) starts.push_back(r * rows[0]);
    all_to_all(in, starts, rows, out, rows);
  }

  void shift(Tensor in, Tensor out) override {
    post_receive(out.data, out.bytes(), from(1));
    post_send(in.data, in.bytes(), to(1));
    finish_exchange("shift");
  }

  void broadcast(Tensor x, int root) override {
    for (int64_t at = 0; at < x.bytes(); at += kPiece)
      check_mpi(MPI_Bcast(static_cast<char*>(x.data) + at, int(std::min(kPiece, x.bytes() - at)), MPI_BYTE,
                          root, comm_),
                "broadcast");
  }

  void barrier() override { check_mpi(MPI_Barrier(comm_), "barrier"); }

  std::unique_ptr<HostBackend> split(int color) override {
    MPI_Comm group;
    check_mpi(MPI_Comm_split(comm_, color, rank(), &group), "split");
    int group_rank = 0, group_size = 1;
    MPI_Comm_rank(group, &group_rank);
    MPI_Comm_size(group, &group_size);
    if (group_size > 1) return std::make_unique<MpiBackend>(group, group_rank, group_size, true);
    MPI_Comm_free(&group);
    return nullptr;
  }

 private:
  static constexpr int64_t kPiece = int64_t(1) << 30;    // bytes of one MPI message
  static constexpr int64_t kStaging = int64_t(4) << 20;  // bytes received before they are added
  // Bytes below which everyone sends everything to everyone: one latency, not two.
  static constexpr int64_t kSmall = 16 << 10;

  // ---- messages between pairs ----

  /// Messages of one exchange arrive in the order in which they were posted, so that one tag is enough.
  void post_receive(void* data, int64_t bytes, int from) {
    for (int64_t at = 0; at < bytes; at += kPiece)
      check_mpi(MPI_Irecv(static_cast<char*>(data) + at, int(std::min(kPiece, bytes - at)), MPI_BYTE, from, 0,
                          comm_, &requests_.emplace_back()),
                "receive");
  }
  void post_send(const void* data, int64_t bytes, int to) {
    for (int64_t at = 0; at < bytes; at += kPiece)
      check_mpi(MPI_Isend(static_cast<const char*>(data) + at, int(std::min(kPiece, bytes - at)), MPI_BYTE,
                          to, 0, comm_, &requests_.emplace_back()),
                "send");
  }
  void finish_exchange(const char* what) {
    const int code = MPI_Waitall(int(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE);
    requests_.clear();
    check_mpi(code, what);
  }
  /// The k-th partner to send to and to receive from: all pairs are busy at the same time.
  int to(int k) const { return (rank() + k) % size(); }
  int from(int k) const { return (rank() + size() - k) % size(); }

  // ---- parts of collectives ----

  int64_t part(int64_t n, int r) const { return n * r / size(); }

  void reduce_small(const Tensor& x, Reduce op) {
    const int64_t bytes = x.bytes();
    staging_.resize(size_t(bytes * size()));
    check_mpi(MPI_Allgather(x.data, int(bytes), MPI_BYTE, staging_.data(), int(bytes), MPI_BYTE, comm_),
              "all-reduce");
    parts_.clear();
    for (int r = 0; r < size(); r++) parts_.push_back(staging_.data() + r * bytes);
    accumulate(x.dtype, op, parts_, x.data, x.numel());
  }

  void gather_parts(const Tensor& in, const Tensor& out, const std::vector<int64_t>& rows, const char* what) {
    set_starts(rows, out.columns() * size_of(out.dtype));
    char* base = static_cast<char*>(out.data);
    for (int k = 1; k < size(); k++) {
      const auto r = size_t(from(k));
      post_receive(base + starts_[r], starts_[r + 1] - starts_[r], int(r));
    }
    for (int k = 1; k < size(); k++) post_send(in.data, in.bytes(), to(k));
    char* own = base + starts_[size_t(rank())];
    if (in.bytes() && in.data != own) std::memcpy(own, in.data, size_t(in.bytes()));
    finish_exchange(what);
  }

  /// In slices, so that what is received and not yet added stays small and in the cache.
  void reduce_parts(const Tensor& in, const Tensor& out, const std::vector<int64_t>& rows, Reduce op,
                    const char* what) {
    const int64_t width = size_of(in.dtype);
    set_starts(rows, in.columns() * width);
    const int64_t slice = std::max<int64_t>(kStaging / (width * size()), 1) * width;
    const auto length = [&](int r, int64_t at) {  // bytes of the slice of rank r's part that begins at `at`
      return std::clamp<int64_t>(starts_[size_t(r) + 1] - starts_[size_t(r)] - at, 0, slice);
    };
    const int64_t longest = *std::max_element(rows.begin(), rows.end()) * in.columns() * width;
    const auto* base = static_cast<const char*>(in.data);
    for (int64_t at = 0; at < longest; at += slice) {
      const int64_t own = length(rank(), at);
      staging_.resize(size_t(own * (size() - 1)));
      parts_.assign(size_t(size()), base + starts_[size_t(rank())] + at);
      for (int k = 1; k < size(); k++) {
        char* place = staging_.data() + (k - 1) * own;
        parts_[size_t(from(k))] = place;
        post_receive(place, own, from(k));
      }
      for (int k = 1; k < size(); k++)
        post_send(base + starts_[size_t(to(k))] + at, length(to(k), at), to(k));
      finish_exchange(what);
      if (own) accumulate(in.dtype, op, parts_, static_cast<char*>(out.data) + at, own / width);
    }
  }

  /// starts_[r]: bytes before rank r's part; one more entry for the end.
  void set_starts(const std::vector<int64_t>& rows, int64_t row_bytes) {
    starts_.assign(1, 0);
    for (int64_t n : rows) starts_.push_back(starts_.back() + n * row_bytes);
  }

  MPI_Comm comm_;
  bool owned_;
  std::vector<MPI_Request> requests_;
  std::vector<int64_t> starts_;
  std::vector<const void*> parts_;
  std::vector<char> staging_;
};

}  // namespace

std::unique_ptr<Communicator> make_world_communicator() {
  if (!launched_by_mpi()) return make_single_communicator();
  int started = 0, provided = MPI_THREAD_MULTIPLE, rank = 0, size = 1;
  MPI_Initialized(&started);  // by an earlier world of this process
  if ((!started && MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS) ||
      provided < MPI_THREAD_MULTIPLE)
    throw Error(Exit::layout,
                "this MPI cannot be used by several threads at once (MPI_THREAD_MULTIPLE), but gradients are "
                "summed beside the backward pass: use a build of Open MPI with thread support");
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (size == 1) return make_single_communicator();
  return std::make_unique<Communicator>("world",
                                        std::make_unique<MpiBackend>(MPI_COMM_WORLD, rank, size, false));
}

void finish_world(int code) {
  int started = 0, finalized = 0, size = 1;
  MPI_Initialized(&started);
  MPI_Finalized(&finalized);
  if (!started || finalized) return;
  if (code == 0 || code == int(Exit::stopped_saved)) {
    // MPI_Finalize waits for all ranks; one that never comes must not hold the others for good.
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    const int slot = Watchdog::instance().begin(
        {.group = "world", .size = size, .kind = name_of(Collective::finish), .number = 0, .bytes = 0});
    MPI_Finalize();
    Watchdog::instance().end(slot);
  } else {
    // What there is to say has been said: of errors that all ranks have alike by rank 0 while the others
    // waited (train/run/log.cpp), so that this does not cut it short.
    MPI_Abort(MPI_COMM_WORLD, code);
  }
  Watchdog::instance().stop();
}

}  // namespace jambalaya
