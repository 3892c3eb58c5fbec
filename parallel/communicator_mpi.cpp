// Collectives of ranks in host memory, over Open MPI.
//
// Sums are taken in rank order whatever algorithm MPI would choose: parts are exchanged by all-to-all, each
// rank adds its part in rank order, and the sums are gathered. That moves as many bytes as a ring and gives
// the same bits every time. MPI is used from one thread at a time (MPI_THREAD_SERIALIZED).
#include <mpi.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "parallel/communicator.h"

namespace jambalaya {

namespace {

void check_mpi(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Error(Exit::peer_lost, cat(what, " failed: ", std::string(text, size_t(length))));
}

int as_count(int64_t n) {
  JAMBALAYA_CHECK(n >= 0 && n <= INT_MAX, "one MPI message of ", n, " elements");
  return int(n);
}

template <class T>
void accumulate(Reduce op, const T* in, T* out, int64_t n) {
  switch (op) {
    case Reduce::sum:
      for (int64_t i = 0; i < n; i++) out[i] = T(out[i] + in[i]);
      break;
    case Reduce::max:
      for (int64_t i = 0; i < n; i++) out[i] = std::max(out[i], in[i]);
      break;
    case Reduce::min:
      for (int64_t i = 0; i < n; i++) out[i] = std::min(out[i], in[i]);
      break;
  }
}

void accumulate(DType dtype, Reduce op, const void* in, void* out, int64_t n) {
  switch (dtype) {
    case DType::f32:
      return accumulate(op, static_cast<const float*>(in), static_cast<float*>(out), n);
    case DType::f64:
      return accumulate(op, static_cast<const double*>(in), static_cast<double*>(out), n);
    case DType::i32:
      return accumulate(op, static_cast<const int32_t*>(in), static_cast<int32_t*>(out), n);
    case DType::i64:
      return accumulate(op, static_cast<const int64_t*>(in), static_cast<int64_t*>(out), n);
    case DType::u8:
      return accumulate(op, static_cast<const uint8_t*>(in), static_cast<uint8_t*>(out), n);
    default:
      JAMBALAYA_CHECK(false, "all_reduce of ", name_of(dtype));
  }
}

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MPI_Comm comm, const std::string& name, bool owned)
      : Communicator(name), comm_(comm), owned_(owned) {
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
  }
  ~MpiCommunicator() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (owned_ && !finalized) MPI_Comm_free(&comm_);
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_reduce(Tensor x, Reduce op) override {
    calls_++;
    JAMBALAYA_CHECK(x.packed());
    if (size_ == 1 || x.numel() == 0) return;
    for (int64_t begin = 0; begin < x.numel(); begin += kPiece) {
      int64_t n = std::min(kPiece, x.numel() - begin);
      char* data = static_cast<char*>(x.data) + begin * size_of(x.dtype);
      n* size_of(x.dtype) <= kSmall ? reduce_small(x.dtype, op, data, n) : reduce_large(x.dtype, op, data, n);
    }
  }

  void all_gather(Tensor in, Tensor out) override {
    calls_++;
    JAMBALAYA_CHECK(in.packed() && out.packed() && out.bytes() == in.bytes() * size_);
    bytes_ += in.bytes() * (size_ - 1);
    check_mpi(MPI_Allgather(in.data, as_count(in.bytes()), MPI_BYTE, out.data, as_count(in.bytes()), MPI_BYTE,
                            comm_),
              "all-gather");
  }

  void reduce_scatter(Tensor in, Tensor out) override {
    calls_++;
    JAMBALAYA_CHECK(in.packed() && out.packed() && in.numel() == out.numel() * size_ &&
                    in.dtype == out.dtype);
    buffer_.resize(size_t(in.bytes()));
    bytes_ += out.bytes() * (size_ - 1);
    check_mpi(MPI_Alltoall(in.data, as_count(out.bytes()), MPI_BYTE, buffer_.data(), as_count(out.bytes()),
                           MPI_BYTE, comm_),
              "reduce-scatter");
    std::memcpy(out.data, buffer_.data(), size_t(out.bytes()));
    for (int r = 1; r < size_; r++)
      accumulate(out.dtype, Reduce::sum, buffer_.data() + r * out.bytes(), out.data, out.numel());
  }

  void all_to_all(Tensor in, const std::vector<int64_t>& send, Tensor out,
                  const std::vector<int64_t>& receive) override {
    calls_++;
    JAMBALAYA_CHECK(in.packed() && out.packed() && int(send.size()) == size_ && int(receive.size()) == size_);
    int64_t row = in.columns() * size_of(in.dtype);
    std::vector<int> counts[2], starts[2];
    for (int side = 0; side < 2; side++) {
      int64_t at = 0;
      for (int r = 0; r < size_; r++) {
        int64_t n = (side == 0 ? send : receive)[size_t(r)] * row;
        counts[side].push_back(as_count(n));
        starts[side].push_back(as_count(at));
        at += n;
        if (side == 0 && r != rank_) bytes_ += n;
      }
    }
    check_mpi(MPI_Alltoallv(in.data, counts[0].data(), starts[0].data(), MPI_BYTE, out.data, counts[1].data(),
                            starts[1].data(), MPI_BYTE, comm_),
              "all-to-all");
  }

  void broadcast(Tensor x, int root) override {
    calls_++;
    JAMBALAYA_CHECK(x.packed());
    if (rank_ == root) bytes_ += x.bytes() * (size_ - 1);
    for (int64_t at = 0; at < x.bytes(); at += INT_MAX)
      check_mpi(MPI_Bcast(static_cast<char*>(x.data) + at,
                          as_count(std::min<int64_t>(INT_MAX, x.bytes() - at)), MPI_BYTE, root, comm_),
                "broadcast");
  }

  void barrier() override {
    calls_++;
    check_mpi(MPI_Barrier(comm_), "barrier");
  }

  std::unique_ptr<Communicator> split(int color, const std::string& name) override {
    calls_++;
    MPI_Comm part;
    check_mpi(MPI_Comm_split(comm_, color, rank_, &part), "split");
    return std::make_unique<MpiCommunicator>(part, name, true);
  }

 private:
  static constexpr int64_t kPiece = 1 << 24;  // elements per exchange: bounds the staging buffer
  static constexpr int64_t kSmall =
      16 << 10;  // bytes below which everyone gathers everything: one latency, not two

  void reduce_small(DType dtype, Reduce op, char* data, int64_t n) {
    int64_t bytes = n * size_of(dtype);
    buffer_.resize(size_t(bytes * size_));
    bytes_ += bytes * (size_ - 1);
    check_mpi(
        MPI_Allgather(data, as_count(bytes), MPI_BYTE, buffer_.data(), as_count(bytes), MPI_BYTE, comm_),
        "all-reduce");
    std::memcpy(data, buffer_.data(), size_t(bytes));
    for (int r = 1; r < size_; r++) accumulate(dtype, op, buffer_.data() + r * bytes, data, n);
  }

  void reduce_large(DType dtype, Reduce op, char* data, int64_t n) {
    const int64_t width = size_of(dtype), part = (n + size_ - 1) / size_;
    std::vector<int> counts, starts, mine, mine_starts;
    auto begin = [&](int r) { return std::min(n, part * r); };
    const int64_t own = begin(rank_ + 1) - begin(rank_);
    for (int r = 0; r < size_; r++) {
      counts.push_back(as_count((begin(r + 1) - begin(r)) * width));
      starts.push_back(as_count(begin(r) * width));
      mine.push_back(as_count(own * width));
      mine_starts.push_back(as_count(own * width * r));
    }
    buffer_.resize(size_t(own * width * size_));
    bytes_ += (n - own) * width + own * width * (size_ - 1);
    check_mpi(MPI_Alltoallv(data, counts.data(), starts.data(), MPI_BYTE, buffer_.data(), mine.data(),
                            mine_starts.data(), MPI_BYTE, comm_),
              "all-reduce");
    for (int r = 1; r < size_; r++)
      accumulate(dtype, op, buffer_.data() + r * own * width, buffer_.data(), own);
    char* target = data + begin(rank_) * width;
    if (own) std::memcpy(target, buffer_.data(), size_t(own * width));
    check_mpi(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_BYTE, data, counts.data(), starts.data(), MPI_BYTE, comm_),
              "all-reduce");
  }

  MPI_Comm comm_;
  bool owned_;
  int rank_ = 0, size_ = 1;
  std::vector<char> buffer_;
};

}  // namespace

std::unique_ptr<Communicator> make_world_communicator() {
  if (!launched_by_mpi()) return make_single_communicator();
  int provided = 0;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS ||
      provided < MPI_THREAD_SERIALIZED)
    throw Error(Exit::layout, "MPI could not start with thread support (MPI_THREAD_SERIALIZED)");
  return std::make_unique<MpiCommunicator>(MPI_COMM_WORLD, "world", false);
}

void finish_world(int code) {
  int started = 0, finalized = 0;
  MPI_Initialized(&started);
  MPI_Finalized(&finalized);
  if (!started || finalized) return;
  if (code == 0 || code == int(Exit::stopped_saved))
    MPI_Finalize();
  else
    MPI_Abort(MPI_COMM_WORLD, code);
}

}  // namespace jambalaya
