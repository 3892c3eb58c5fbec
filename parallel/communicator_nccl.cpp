// Collectives of tensors in device memory by NCCL. It needs nothing of CUDA but the streams' handles, so that
// it is part of the program and not of the CUDA library; its functions are looked up when first needed.
//
// Communicators are blocking ones: a call returns when its work is enqueued. (A non-blocking one starts a
// thread for every call.) A call, or a kernel on the device, that waits for a rank which does not come is the
// watchdog's business, which ends the process: to abort the communicator instead would let this rank go on
// with numbers that never arrived.
#include "parallel/communicator_nccl.h"

#include <dlfcn.h>
#include <nccl.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <mutex>

#include "kernels/trace.h"
#include "parallel/watchdog.h"

namespace jambalaya {

namespace {

/// The functions of the loaded library; null where there is none, with the reason.
struct Nccl {
  decltype(&::ncclGetVersion) get_version;
  decltype(&::ncclGetUniqueId) get_unique_id;
  decltype(&::ncclCommInitRankConfig) comm_init;
  decltype(&::ncclCommDestroy) comm_destroy;
  decltype(&::ncclCommAbort) comm_abort;
  decltype(&::ncclCommGetAsyncError) comm_error;
  decltype(&::ncclGetErrorString) error_string;
  decltype(&::ncclGetLastError) last_error;
  decltype(&::ncclAllReduce) all_reduce;
  decltype(&::ncclAllGather) all_gather;
  decltype(&::ncclReduceScatter) reduce_scatter;
  decltype(&::ncclReduce) reduce;
  decltype(&::ncclBroadcast) broadcast;
  decltype(&::ncclSend) send;
  decltype(&::ncclRecv) receive;
  decltype(&::ncclGroupStart) group_start;
  decltype(&::ncclGroupEnd) group_end;
  decltype(&::ncclAllGather) all_to_all;  ///< ncclAlltoAll, with the same arguments; null before 2.28
  int version = 0;                        ///< 22809 is 2.28.9
};

constexpr int kOldest = 21800;  // ncclCommInitRankConfig with a name for the communicator

std::string version_text(int v) { return cat(v / 10000, ".", v / 100 % 100, ".", v % 100); }

/// Fills `table`; the reason why not otherwise.
std::string load(Nccl& table) {
  const char* named = std::getenv("JAMBALAYA_NCCL_LIBRARY");
  const char* path = named ? named : "libnccl.so.2";
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library)
    return cat("NCCL does not load (", dlerror(),
               "): install it, or name its libnccl.so.2 in JAMBALAYA_NCCL_LIBRARY");
  std::string missing;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    if (!function) missing = name;
  };
  find(table.get_version, "ncclGetVersion");
  find(table.get_unique_id, "ncclGetUniqueId");
  find(table.comm_init, "ncclCommInitRankConfig");
  find(table.comm_destroy, "ncclCommDestroy");
  find(table.comm_abort, "ncclCommAbort");
  find(table.comm_error, "ncclCommGetAsyncError");
  find(table.error_string, "ncclGetErrorString");
  find(table.last_error, "ncclGetLastError");
  find(table.all_reduce, "ncclAllReduce");
  find(table.all_gather, "ncclAllGather");
  find(table.reduce_scatter, "ncclReduceScatter");
  find(table.reduce, "ncclReduce");
  find(table.broadcast, "ncclBroadcast");
  find(table.send, "ncclSend");
  find(table.receive, "ncclRecv");
  find(table.group_start, "ncclGroupStart");
  find(table.group_end, "ncclGroupEnd");
  table.all_to_all = reinterpret_cast<decltype(table.all_to_all)>(dlsym(library, "ncclAlltoAll"));
  if (missing.empty()) table.get_version(&table.version);
  if (!missing.empty() || table.version < kOldest)
    return cat(path, " is NCCL ", version_text(table.version), missing.empty() ? "" : " without ", missing,
               "; 2.18 or newer is needed");
  return "";
}

const Nccl* nccl(std::string* why = nullptr) {
  static Nccl table{};
  static const std::string reason = load(table);
  if (why) *why = reason;
  return reason.empty() ? &table : nullptr;
}

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::bf16:
      return ncclBfloat16;
    case DType::f64:
      return ncclFloat64;
    case DType::i32:
      return ncclInt32;
    case DType::i64:
      return ncclInt64;
    case DType::u8:
      return ncclUint8;
    case DType::u16:
      break;
  }
  JAMBALAYA_CHECK(false, "no sums of ", name_of(dtype));
  return ncclUint8;
}

ncclRedOp_t operation_of(Reduce op) {
  return op == Reduce::sum ? ncclSum : op == Reduce::max ? ncclMax : ncclMin;
}

class NcclBackend final : public DeviceBackend {
 public:
  NcclBackend(const Nccl& api, HostBackend& host, Accelerator& accelerator, Accelerator::Stream stream,
              const std::string& name)
      : DeviceBackend(host.rank(), host.size()),
        nccl_(api),
        host_(host),
        accelerator_(accelerator),
        stream_(static_cast<cudaStream_t>(stream)),
        name_(trace::intern(name)) {
    begin();
  }
  ~NcclBackend() override {
    if (!comm_) return;
    if (std::uncaught_exceptions() > 0) {
      nccl_.comm_abort(comm_);  // what is enqueued may never end
      return;
    }
    const Flight flight(*this, "end of NCCL");
    try {
      accelerator_.synchronize(stream_);  // what is enqueued still uses what is about to be freed
    } catch (const std::exception&) {
      // The device is lost, and what was lost with it has been told where it was waited for.
    }
    nccl_.comm_destroy(comm_);
  }

  void all_reduce(Tensor x, Reduce op) override {
    const ncclComm_t comm = ready();
    check(nccl_.all_reduce(x.data, x.data, size_t(x.numel()), type_of(x.dtype), operation_of(op), comm,
                           stream_));
  }

  void all_gather(Tensor in, Tensor out, const std::vector<int64_t>& rows) override {
    const ncclComm_t comm = ready();
    if (equal(rows)) {
      if (in.bytes())
        check(nccl_.all_gather(in.data, out.data, size_t(in.bytes()), ncclUint8, comm, stream_));
      return;
    }
    group([&](const auto& add) {
      auto* at = static_cast<char*>(out.data);
      for (int r = 0; r < size(); r++) {
        const int64_t bytes = rows[size_t(r)] * out.columns() * size_of(out.dtype);
        if (bytes)
          add(nccl_.broadcast(r == rank() ? in.data : at, at, size_t(bytes), ncclUint8, r, comm, stream_));
        at += bytes;
      }
    });
  }

  void reduce_scatter(Tensor in, Tensor out, const std::vector<int64_t>& rows) override {
    const ncclComm_t comm = ready();
    const ncclDataType_t type = type_of(in.dtype);
    if (equal(rows)) {
      if (out.bytes())
        check(nccl_.reduce_scatter(in.data, out.data, size_t(out.numel()), type, ncclSum, comm, stream_));
      return;
    }
    group([&](const auto& add) {
      int64_t at = 0;
      for (int r = 0; r < size(); r++) {
        const int64_t n = rows[size_t(r)] * in.columns();
        // Only the root's result is written, so that it may lie in its place in `in`.
        void* result = r == rank() ? out.data : nullptr;
        if (n) add(nccl_.reduce(in.address(at), result, size_t(n), type, ncclSum, r, comm, stream_));
        at += n;
      }
    });
  }

  /// Never ncclAlltoAll, not even where this rank's counts are equal: it does not know whether those of the
  /// others are, and all must make the same calls.
  void all_to_all(Tensor in, const std::vector<int64_t>& send_starts, const std::vector<int64_t>& send_rows,
                  Tensor out, const std::vector<int64_t>& receive_rows) override {
    const ncclComm_t comm = ready();
    const int64_t row = in.columns() * size_of(in.dtype);
    const auto* from = static_cast<const char*>(in.data);
    auto* to = static_cast<char*>(out.data);
    group([&](const auto& add) {
      for (size_t r = 0; r < size_t(size()); r++) {
        const int64_t sent = send_rows[r] * row, received = receive_rows[r] * row;
        if (sent)
          add(nccl_.send(from + send_starts[r] * row, size_t(sent), ncclUint8, int(r), comm, stream_));
        if (received) add(nccl_.receive(to, size_t(received), ncclUint8, int(r), comm, stream_));
        to += received;
      }
    });
  }

  /// One call leaves it to NCCL how blocks travel (copy engines within a host, say); as a group it is a send
  /// and a receive for each rank in any case.
  void all_to_all_equal(Tensor in, Tensor out) override {
    const ncclComm_t comm = ready();
    const size_t block = size_t(in.bytes() / size());
    if (nccl_.all_to_all) return check(nccl_.all_to_all(in.data, out.data, block, ncclUint8, comm, stream_));
    group([&](const auto& add) {
      for (int r = 0; r < size(); r++) {
        const size_t at = size_t(r) * block;
        add(nccl_.send(static_cast<const char*>(in.data) + at, block, ncclUint8, r, comm, stream_));
        add(nccl_.receive(static_cast<char*>(out.data) + at, block, ncclUint8, r, comm, stream_));
      }
    });
  }

  void shift(Tensor in, Tensor out) override {
    const ncclComm_t comm = ready();
    const int right = (rank() + 1) % size(), left = (rank() + size() - 1) % size();
    group([&](const auto& add) {
      if (in.bytes()) add(nccl_.send(in.data, size_t(in.bytes()), ncclUint8, right, comm, stream_));
      if (out.bytes()) add(nccl_.receive(out.data, size_t(out.bytes()), ncclUint8, left, comm, stream_));
    });
  }

  void broadcast(Tensor x, int root) override {
    check(nccl_.broadcast(x.data, x.data, size_t(x.bytes()), ncclUint8, root, ready(), stream_));
  }

  std::string failure() override {
    std::lock_guard lock(mutex_);
    ncclResult_t state = ncclSuccess;
    if (!comm_ || nccl_.comm_error(comm_, &state) != ncclSuccess) return "";
    return state == ncclSuccess || state == ncclInProgress ? "" : text_of(state);
  }

 private:
  /// The calls that `calls` makes are one: they run together, in no order among themselves. It hands each
  /// call's result to its argument: a group that has begun must end before anything is given up.
  template <class F>
  void group(const F& calls) {
    check(nccl_.group_start());
    ncclResult_t first = ncclSuccess;
    calls([&](ncclResult_t code) { first = first == ncclSuccess ? code : first; });
    const ncclResult_t end = nccl_.group_end();
    check(first == ncclSuccess ? end : first);
  }

  static bool equal(const std::vector<int64_t>& rows) {
    return std::all_of(rows.begin(), rows.end(), [&](int64_t n) { return n == rows[0]; });
  }

  /// Collective: rank 0's id goes to all.
  void begin() {
    accelerator_.bind_thread();
    ncclUniqueId id{};
    if (rank() == 0) check(nccl_.get_unique_id(&id));
    host_.broadcast(make_tensor(id.internal, DType::u8, {NCCL_UNIQUE_ID_BYTES}), 0);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 1;
    config.commName = name_;
    const Flight flight(*this, "begin of NCCL");
    check(nccl_.comm_init(&comm_, size(), id, rank(), &config));
  }

  /// The communicator, unless something has gone wrong with it.
  ncclComm_t ready() {
    accelerator_.bind_thread();
    if (!lost_.empty()) throw Error(Exit::peer_lost, lost_);
    ncclResult_t state = ncclSuccess;
    check(nccl_.comm_error(comm_, &state));
    check(state);
    return comm_;
  }

  /// What is no numbered collective and waits for the other ranks all the same, for the watchdog.
  class Flight {
   public:
    Flight(const NcclBackend& b, const char* what)
        : slot_(Watchdog::instance().begin(
              {.group = b.name_, .size = b.size(), .kind = what, .number = 0, .bytes = 0})) {}
    ~Flight() { Watchdog::instance().end(slot_); }

   private:
    int slot_;
  };

  std::string text_of(ncclResult_t code) const {
    const char* more = comm_ ? nccl_.last_error(comm_) : nullptr;
    return cat("NCCL: ", nccl_.error_string(code), more && *more ? cat(" (", more, ")") : "",
               "; NCCL_DEBUG=WARN tells more");
  }

  /// What NCCL refuses is our mistake, all else a rank or a link that was lost. Either way the communicator
  /// is of no more use: it is given up, so that nothing on the device waits in it any longer.
  void check(ncclResult_t code) {
    if (code == ncclSuccess) return;
    const bool ours = code == ncclInvalidArgument || code == ncclInvalidUsage;
    std::lock_guard lock(mutex_);
    lost_ = text_of(code);
    if (comm_) nccl_.comm_abort(comm_);
    comm_ = nullptr;
    throw Error(ours ? Exit::failed : Exit::peer_lost, lost_);
  }

  const Nccl& nccl_;
  HostBackend& host_;
  Accelerator& accelerator_;
  cudaStream_t stream_;
  const char* name_;  ///< for as long as the process lives
  std::mutex mutex_;  ///< of comm_: failure() is another thread's
  ncclComm_t comm_ = nullptr;
  std::string lost_;  ///< why it was given up
};

}  // namespace

std::string nccl_version(std::string* why) {
  const Nccl* library = nccl(why);
  return library ? version_text(library->version) : "";
}

std::unique_ptr<DeviceBackend> make_nccl_backend(HostBackend& host, Accelerator& accelerator,
                                                 Accelerator::Stream stream, const std::string& name) {
  std::string why;
  const Nccl* library = nccl(&why);
  if (!library) throw Error(Exit::layout, cat("parallel.transport = nccl: ", why));
  return std::make_unique<NcclBackend>(*library, host, accelerator, stream, name);
}

}  // namespace jambalaya
