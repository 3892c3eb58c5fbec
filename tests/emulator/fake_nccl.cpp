// The functions of nccl.h that communicator_nccl.cpp uses, for the emulated device: same header, MPI
// underneath. A call, or a group of calls, becomes one task of its stream, so that nothing has arrived before
// someone waits for the stream. Every rank's arguments are compared; what NCCL would take for undefined
// behaviour throws (the next wait for the stream tells), and calls on a communicator that is gone end the
// process.
//
// FAKE_NCCL_BEFORE_ALLTOALL, when it is compiled: NCCL 2.27, which has no ncclAlltoAll.
//
//   FAKE_NCCL_FAULT=RANK:CALL:KIND   what happens to the CALL-th call (from 1) of that rank of the world
//     refuse   it fails at once with ncclSystemError
//     error    it never ends, and ncclCommGetAsyncError says ncclRemoteError
//     hang     it never ends, and nobody says why
#include <mpi.h>
#include <nccl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/tensor.h"
#include "parallel/accumulate.h"

/// Messages go between ranks of the world, with a tag for each communicator: two threads cannot make groups
/// of MPI's at the same time.
struct ncclComm {
  std::vector<int> members;  // their ranks in the world
  int tag = 0, rank = 0, size = 0;
  std::atomic<ncclResult_t> error{ncclSuccess};
  std::atomic<bool> aborted{false}, gone{false};
  cudaStream_t stream = nullptr;  // of the last call
};

namespace {

using jambalaya::DType;

[[noreturn]] void misuse(const std::string& what) {
  std::fprintf(stderr, "fake NCCL: %s\n", what.c_str());
  std::abort();
}

enum class Kind { all_reduce, all_gather, all_to_all, reduce_scatter, reduce, broadcast, send, receive };

/// One call, and what all ranks must agree on (collectives).
struct Call {
  Kind kind;
  const void* in;
  void* out;
  size_t count;
  ncclDataType_t type;
  ncclRedOp_t op;
  int peer;  ///< or root
};

DType dtype_of(ncclDataType_t type) {
  switch (type) {
    case ncclFloat32:
      return DType::f32;
    case ncclBfloat16:
      return DType::bf16;
    case ncclFloat64:
      return DType::f64;
    case ncclInt32:
      return DType::i32;
    case ncclInt64:
      return DType::i64;
    case ncclUint8:
      return DType::u8;
    default:
      misuse("a type that nobody sends");
  }
}
size_t width(ncclDataType_t type) { return size_t(jambalaya::size_of(dtype_of(type))); }

void expect(bool condition, const char* what) {
  if (!condition) throw std::runtime_error(std::string("fake NCCL: ") + what);
}

// ---- moving data, inside of a stream's task ----

/// Messages that are all on their way until finish().
class Messages {
 public:
  explicit Messages(const ncclComm& comm) : comm_(comm) {}
  void send(const void* data, size_t bytes, int to) {
    MPI_Isend(data, int(bytes), MPI_BYTE, comm_.members[size_t(to)], comm_.tag, MPI_COMM_WORLD,
              &requests_.emplace_back());
  }
  void receive(void* data, size_t bytes, int from) {
    MPI_Irecv(data, int(bytes), MPI_BYTE, comm_.members[size_t(from)], comm_.tag, MPI_COMM_WORLD,
              &requests_.emplace_back());
  }
  void finish() {
    MPI_Waitall(int(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE);
    requests_.clear();
  }

 private:
  const ncclComm& comm_;
  std::vector<MPI_Request> requests_;
};

/// all <- `bytes` of every rank.
void gather_all(const ncclComm& comm, const void* mine, size_t bytes, void* all) {
  Messages messages(comm);
  for (int r = 0; r < comm.size; r++) {
    char* place = static_cast<char*>(all) + size_t(r) * bytes;
    if (r == comm.rank) {
      if (place != mine) std::memcpy(place, mine, bytes);
      continue;
    }
    messages.receive(place, bytes, r);
    messages.send(mine, bytes, r);
  }
  messages.finish();
}

void spread(const ncclComm& comm, void* data, size_t bytes, int root) {
  Messages messages(comm);
  for (int r = 0; r < comm.size && comm.rank == root; r++)
    if (r != root) messages.send(data, bytes, r);
  if (comm.rank != root) messages.receive(data, bytes, root);
  messages.finish();
}

void agree(const ncclComm& comm, const Call& call) {
  const int64_t mine[5] = {int64_t(call.kind), int64_t(call.count), int64_t(call.type), int64_t(call.op),
                           int64_t(call.peer)};
  std::vector<int64_t> all(5 * size_t(comm.size));
  gather_all(comm, mine, sizeof mine, all.data());
  for (size_t i = 0; i < all.size(); i++)
    expect(all[i] == mine[i % 5], "ranks call different collectives, or with different arguments");
}

/// Block r of `in` goes to rank r, and `out` is filled in order of ranks.
void exchange_all(const ncclComm& comm, const void* in, size_t bytes, void* out) {
  Messages messages(comm);
  for (int r = 0; r < comm.size; r++) {
    const char* leaves = static_cast<const char*>(in) + size_t(r) * bytes;
    char* arrives = static_cast<char*>(out) + size_t(r) * bytes;
    if (r == comm.rank) {
      std::memcpy(arrives, leaves, bytes);
      continue;
    }
    messages.receive(arrives, bytes, r);
    messages.send(leaves, bytes, r);
  }
  messages.finish();
}

/// Sums as over a chain of ranks: in the elements' own type at every hop, so that bf16 is rounded each time.
void reduce_to(const ncclComm& comm, const Call& call, size_t from, size_t n, int root, void* out) {
  const size_t w = width(call.type);
  const char* mine = static_cast<const char*>(call.in) + from * w;
  std::vector<char> parts(comm.rank == root ? n * w * size_t(comm.size) : 0);
  Messages messages(comm);
  for (int r = 0; r < comm.size && comm.rank == root; r++)
    if (r == root)
      std::memcpy(parts.data() + size_t(r) * n * w, mine, n * w);
    else
      messages.receive(parts.data() + size_t(r) * n * w, n * w, r);
  if (comm.rank != root) messages.send(mine, n * w, root);
  messages.finish();
  if (comm.rank != root) return;
  const auto op = call.op == ncclSum   ? jambalaya::Reduce::sum
                  : call.op == ncclMax ? jambalaya::Reduce::max
                                       : jambalaya::Reduce::min;
  for (size_t r = 1; r < size_t(comm.size); r++)
    accumulate(dtype_of(call.type), op, {parts.data(), parts.data() + r * n * w}, parts.data(), int64_t(n));
  std::copy_n(parts.data(), n * w, static_cast<char*>(out));
}

void run_collective(const ncclComm& comm, const Call& call) {
  agree(comm, call);
  const size_t bytes = call.count * width(call.type);
  switch (call.kind) {
    case Kind::all_reduce:
      reduce_to(comm, call, 0, call.count, 0, call.out);
      spread(comm, call.out, bytes, 0);
      break;
    case Kind::reduce:
      reduce_to(comm, call, 0, call.count, call.peer, call.out);
      break;
    case Kind::reduce_scatter:
      for (int r = 0; r < comm.size; r++)
        reduce_to(comm, call, size_t(r) * call.count, call.count, r, call.out);
      break;
    case Kind::all_gather:
      gather_all(comm, call.in, bytes, call.out);
      break;
    case Kind::all_to_all:
      exchange_all(comm, call.in, bytes, call.out);
      break;
    case Kind::broadcast:
      if (comm.rank == call.peer && call.in != call.out)
        std::copy_n(static_cast<const char*>(call.in), bytes, static_cast<char*>(call.out));
      spread(comm, call.out, bytes, call.peer);
      break;
    case Kind::send:
    case Kind::receive:
      break;
  }
}

/// All at once, as NCCL promises. Lengths travel ahead, to be compared.
void run_messages(const ncclComm& comm, const std::vector<Call>& calls) {
  Messages messages(comm);
  std::vector<int64_t> lengths(calls.size());
  for (size_t i = 0; i < calls.size(); i++) {
    const auto length = lengths[i] = int64_t(calls[i].count * width(calls[i].type));
    if (calls[i].kind == Kind::send)
      messages.send(&lengths[i], sizeof length, calls[i].peer);
    else
      messages.receive(&lengths[i], sizeof length, calls[i].peer);
  }
  messages.finish();
  for (size_t i = 0; i < calls.size(); i++) {
    const size_t bytes = calls[i].count * width(calls[i].type);
    expect(lengths[i] == int64_t(bytes), "a message is received with another length than it was sent with");
    if (calls[i].kind == Kind::send)
      messages.send(calls[i].in, bytes, calls[i].peer);
    else
      messages.receive(calls[i].out, bytes, calls[i].peer);
  }
  messages.finish();
}

struct Task {
  ncclComm* comm;
  std::vector<Call> calls;
  bool stuck;
};

void run(void* argument) {
  const std::unique_ptr<Task> task(static_cast<Task*>(argument));
  while (task->stuck && !task->comm->aborted) usleep(1000);
  if (task->comm->aborted) return;
  std::vector<Call> messages;
  for (const Call& call : task->calls)
    if (call.kind == Kind::send || call.kind == Kind::receive)
      messages.push_back(call);
    else
      run_collective(*task->comm, call);
  run_messages(*task->comm, messages);
}

// ---- calls ----

struct Group {
  int depth = 0;
  ncclComm* comm = nullptr;
  cudaStream_t stream = nullptr;
  std::vector<Call> calls;
};
thread_local Group group;

/// What is to happen to this call of this process.
std::string fault() {
  static std::atomic<int> calls{0};
  static const std::string plan = [] {
    const char* text = std::getenv("FAKE_NCCL_FAULT");
    return std::string(text ? text : "");
  }();
  const int call = ++calls;
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const std::string mine = std::to_string(rank) + ":" + std::to_string(call) + ":";
  return plan.starts_with(mine) ? plan.substr(mine.size()) : "";
}

ncclResult_t launch(ncclComm* comm, cudaStream_t stream, std::vector<Call> calls) {
  const std::string what = fault();
  if (what == "refuse") return ncclSystemError;
  if (what == "error") comm->error = ncclRemoteError;
  comm->stream = stream;
  auto task = std::make_unique<Task>(Task{comm, std::move(calls), !what.empty()});
  return cudaLaunchHostFunc(stream, run, task.release()) == cudaSuccess ? ncclSuccess
                                                                        : ncclUnhandledCudaError;
}

ncclResult_t add(ncclComm* comm, cudaStream_t stream, const Call& call) {
  if (!comm || comm->gone) misuse("a call on a communicator that was destroyed or aborted");
  if (call.count == 0) misuse("a call that moves nothing");
  if (!call.in && call.kind != Kind::receive) misuse("a null buffer");
  if (call.peer < 0 || call.peer >= comm->size) return ncclInvalidArgument;
  if (group.depth == 0) return launch(comm, stream, {call});
  if (!group.calls.empty() && (group.comm != comm || group.stream != stream))
    misuse("a group over several communicators or streams");
  group.comm = comm, group.stream = stream;
  group.calls.push_back(call);
  return ncclSuccess;
}

std::atomic<int> all_to_alls{0};  // calls of ncclAlltoAll: a test asks which way was taken

struct Id {
  int root, number;
};

/// Members tell rank 0 who they are, which tells them all.
void meet(ncclComm& comm, const Id& id) {
  int me = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &me);
  comm.tag = 1000 + (id.root << 12) + id.number;
  comm.members.assign(size_t(comm.size), me);
  int* members = comm.members.data();
  if (comm.rank == 0) {
    for (int i = 1; i < comm.size; i++) {
      int pair[2];
      MPI_Recv(pair, 2, MPI_INT, MPI_ANY_SOURCE, comm.tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      members[pair[0]] = pair[1];
    }
    for (int i = 1; i < comm.size; i++)
      MPI_Send(members, comm.size, MPI_INT, members[i], comm.tag, MPI_COMM_WORLD);
  } else {
    const int pair[2] = {comm.rank, me};
    MPI_Send(pair, 2, MPI_INT, id.root, comm.tag, MPI_COMM_WORLD);
    MPI_Recv(members, comm.size, MPI_INT, id.root, comm.tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  }
}

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
#ifdef FAKE_NCCL_BEFORE_ALLTOALL
  *version = NCCL_VERSION(2, 27, 7);
#else
  *version = std::max(NCCL_VERSION_CODE, NCCL_VERSION(2, 28, 0));
#endif
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t code) {
  return code == ncclSystemError    ? "unhandled system error"
         : code == ncclRemoteError  ? "remote process exited or there was a network error"
         : code == ncclInvalidUsage ? "invalid usage"
                                    : "error of the fake";
}
const char* ncclGetLastError(ncclComm_t) { return ""; }

ncclResult_t ncclGetUniqueId(ncclUniqueId* out) {
  static std::atomic<int> made{0};
  Id id{0, ++made};
  MPI_Comm_rank(MPI_COMM_WORLD, &id.root);
  std::copy_n(reinterpret_cast<const char*>(&id), sizeof id, out->internal);
  return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t* out, int size, ncclUniqueId unique, int rank,
                                    ncclConfig_t* config) {
  if (!config || config->blocking != 1) misuse("a communicator that is not blocking");
  Id id{};
  std::copy_n(unique.internal, sizeof id, reinterpret_cast<char*>(&id));
  auto* comm = new ncclComm;
  comm->rank = rank, comm->size = size;
  meet(*comm, id);
  *out = comm;
  return ncclSuccess;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm->gone) misuse("a communicator is destroyed twice");
  if (comm->stream) cudaStreamSynchronize(comm->stream);
  comm->gone = true;  // its memory stays: a call on it is told from any other
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  if (comm->gone) misuse("a communicator is aborted after its end");
  comm->gone = comm->aborted = true;
  return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  if (comm->gone) misuse("a communicator is asked after its end");
  *error = comm->error;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  group.depth++;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (group.depth == 0) misuse("a group ends that was not begun");
  if (--group.depth > 0 || group.calls.empty()) return ncclSuccess;
  return launch(group.comm, group.stream, std::exchange(group.calls, {}));
}

ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  return add(comm, stream, {Kind::all_reduce, in, out, count, type, op, 0});
}
ncclResult_t ncclAllGather(const void* in, void* out, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return add(comm, stream, {Kind::all_gather, in, out, count, type, ncclSum, 0});
}
#ifndef FAKE_NCCL_BEFORE_ALLTOALL
ncclResult_t ncclAlltoAll(const void* in, void* out, size_t count, ncclDataType_t type, ncclComm_t comm,
                          cudaStream_t stream) {
  if (in == out) misuse("an all-to-all in place");
  all_to_alls++;
  return add(comm, stream, {Kind::all_to_all, in, out, count, type, ncclSum, 0});
}
#endif
int fake_nccl_all_to_alls() { return all_to_alls; }
ncclResult_t ncclReduceScatter(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
  return add(comm, stream, {Kind::reduce_scatter, in, out, count, type, op, 0});
}
ncclResult_t ncclReduce(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                        int root, ncclComm_t comm, cudaStream_t stream) {
  return add(comm, stream, {Kind::reduce, in, out, count, type, op, root});
}
ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return add(comm, stream, {Kind::broadcast, in, out, count, type, ncclSum, root});
}
ncclResult_t ncclSend(const void* in, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add(comm, stream, {Kind::send, in, nullptr, count, type, ncclSum, peer});
}
ncclResult_t ncclRecv(void* out, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add(comm, stream, {Kind::receive, nullptr, out, count, type, ncclSum, peer});
}

}  // extern "C"
