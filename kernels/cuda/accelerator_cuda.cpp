#include "kernels/cuda/accelerator_cuda.h"

#include <cuda_runtime.h>

#include <cstdlib>
#include <map>
#include <mutex>

#include "kernels/byte_text.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/platform.h"
#include "kernels/cuda/staging.h"

namespace jambalaya::cuda {
namespace {

cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t as_event(void* event) { return static_cast<cudaEvent_t>(event); }

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

AcceleratorProperties properties_of(int device) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  char bus[32] = "";
  check(cudaDeviceGetPCIBusId(bus, sizeof bus, device), "cudaDeviceGetPCIBusId");
  // Two transfers a clock (double data rate); clocks are told in kHz, and as 0 by some drivers.
  const double clock = 1e3 * attribute(cudaDevAttrMemoryClockRate, device);
  const double bus_bytes = attribute(cudaDevAttrGlobalMemoryBusWidth, device) / 8.0;
  return {.name = properties.name,
          .major = attribute(cudaDevAttrComputeCapabilityMajor, device),
          .minor = attribute(cudaDevAttrComputeCapabilityMinor, device),
          .multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device),
          .clock_hz = 1e3 * attribute(cudaDevAttrClockRate, device),
          .memory_bytes = int64_t(properties.totalGlobalMem),
          .memory_bytes_per_second = 2 * clock * bus_bytes,
          .bus_id = bus,
          .emulated = emulated()};
}

/// The device that the calling thread's calls go to.
void bind_to(int device) {
  thread_local int bound = -1;
  if (bound == device) return;
  check(cudaSetDevice(device), "cudaSetDevice");
  bound = device;
}

bool pageable(const void* address) {
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, address), "cudaPointerGetAttributes");
  return attributes.type == cudaMemoryTypeUnregistered;
}

class CudaAccelerator final : public Accelerator {
 public:
  explicit CudaAccelerator(int device) : device_(device) {
    bind_thread();
    if (std::string why; !fits(device, &why)) throw Error(Exit::usage, cat("device cuda: ", why));
    properties_ = properties_of(device);
    compute_ = new_stream();
    staging(compute_).prepare();
    ops_ = make_ops(properties_);
  }
  ~CudaAccelerator() override {
    cudaSetDevice(device_);
    cudaDeviceSynchronize();
    ops_.reset();
    staging_.clear();
    ranges_.clear();
    cudaStreamDestroy(as_stream(compute_));
  }

  const AcceleratorProperties& properties() const override { return properties_; }
  Ops& ops() override { return *ops_; }
  void bind_thread() override { bind_to(device_); }

  // ---- memory ----
  void* reserve(int64_t bytes) override {
    bind_thread();
    auto range = reserve_range(device_, bytes);
    void* const base = range->base();
    std::lock_guard lock(mutex_);
    ranges_[base] = std::move(range);
    return base;
  }
  void commit(void* base, int64_t bytes) override { range(base).commit(bytes); }
  void release(void* base) override {
    // The last user may still be under way; its error is told by the next call that can fail.
    cudaSetDevice(device_);
    cudaDeviceSynchronize();
    decltype(ranges_)::node_type range;  // gives its memory back without the lock
    std::lock_guard lock(mutex_);
    range = ranges_.extract(base);
  }
  void* pinned(int64_t bytes) override {
    bind_thread();
    void* memory = nullptr;
    const cudaError_t code =
        cudaHostAlloc(&memory, size_t(bytes > 0 ? bytes : 1), cudaHostAllocPortable | cudaHostAllocMapped);
    if (code == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw Error(Exit::io, cat("cannot lock ", bytes >> 20,
                                " MiB of host memory for copies to the GPU: free some, or raise the "
                                "container's memory limit"));
    }
    check(code, "cudaHostAlloc");
    return memory;
  }
  void free_pinned(void* memory) override { cudaFreeHost(memory); }
  int64_t free_bytes() override {
    bind_thread();
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return int64_t(free);
  }

  // ---- order ----
  Stream compute_stream() override { return compute_; }
  Stream new_stream() override {
    bind_thread();
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    return stream;
  }
  void free_stream(Stream stream) override {
    decltype(staging_)::node_type staging;
    {
      std::lock_guard lock(mutex_);
      staging = staging_.extract(stream);
    }
    staging = {};  // waits for the device
    cudaStreamDestroy(as_stream(stream));
  }
  Event new_event() override {
    bind_thread();
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    return event;
  }
  void free_event(Event event) override { cudaEventDestroy(as_event(event)); }
  void record(Event event, Stream stream) override {
    bind_thread();
    check(cudaEventRecord(as_event(event), as_stream(stream)), "cudaEventRecord");
  }
  void wait(Stream stream, Event event) override {
    bind_thread();
    check(cudaStreamWaitEvent(as_stream(stream), as_event(event), 0), "cudaStreamWaitEvent");
  }
  void wait_on_host(Event event) override {
    bind_thread();
    check(cudaEventSynchronize(as_event(event)), "cudaEventSynchronize");
  }
  void synchronize(Stream stream) override {
    bind_thread();
    check(cudaStreamSynchronize(as_stream(stream)), "cudaStreamSynchronize");
  }
  bool reached(Event event) override {
    bind_thread();
    const cudaError_t code = cudaEventQuery(as_event(event));
    if (code == cudaErrorNotReady) return false;
    check(code, "cudaEventQuery");
    return true;
  }

  // ---- moving bytes ----
  void copy(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t row_bytes, int64_t rows,
            Stream stream) override {
    if (row_bytes <= 0 || rows <= 0) return;
    bind_thread();
    if (rows == 1 || (to_pitch == row_bytes && from_pitch == row_bytes))
      row_bytes *= rows, rows = 1, to_pitch = from_pitch = row_bytes;
    if (pageable(from))
      return staging(stream).copy(static_cast<char*>(to), to_pitch, static_cast<const char*>(from),
                                  from_pitch, row_bytes, rows);
    if (rows == 1)
      check(cudaMemcpyAsync(to, from, size_t(row_bytes), cudaMemcpyDefault, as_stream(stream)),
            "cudaMemcpyAsync");
    else
      check(cudaMemcpy2DAsync(to, size_t(to_pitch), from, size_t(from_pitch), size_t(row_bytes), size_t(rows),
                              cudaMemcpyDefault, as_stream(stream)),
            "cudaMemcpy2DAsync");
  }
  void fill(void* to, int64_t pitch, uint8_t byte, int64_t row_bytes, int64_t rows, Stream stream) override {
    if (row_bytes <= 0 || rows <= 0) return;
    bind_thread();
    if (rows == 1 || pitch == row_bytes)
      check(cudaMemsetAsync(to, byte, size_t(row_bytes * rows), as_stream(stream)), "cudaMemsetAsync");
    else
      check(cudaMemset2DAsync(to, size_t(pitch), byte, size_t(row_bytes), size_t(rows), as_stream(stream)),
            "cudaMemset2DAsync");
  }

 private:
  DeviceRange& range(void* base) {
    bind_thread();
    std::lock_guard lock(mutex_);
    const auto found = ranges_.find(base);
    JAMBALAYA_CHECK(found != ranges_.end(), "no reserved range begins here");
    return *found->second;
  }
  Staging& staging(Stream stream) {
    std::lock_guard lock(mutex_);
    return staging_.try_emplace(stream, as_stream(stream)).first->second;
  }

  int device_;
  AcceleratorProperties properties_;
  Stream compute_ = nullptr;
  std::unique_ptr<Ops> ops_;
  std::mutex mutex_;  ///< of the maps; never held while waiting for the device
  std::map<void*, std::unique_ptr<DeviceRange>> ranges_;
  std::map<Stream, Staging> staging_;
};

/// Before the first call of CUDA: all kernels are loaded when it starts, not each at its first launch. A load
/// may wait for the whole device, where a collective may be waiting for another rank, which waits in a load
/// of its own for another collective. Who sets the variable has the last word.
void load_kernels_early() {
  static const int once = setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  JAMBALAYA_CHECK(once == 0);
}

}  // namespace

int count_devices(std::string* why) {
  load_kernels_early();
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  if (!why) return 0;
  if (code == cudaErrorInsufficientDriver)
    *why = "no NVIDIA driver here, or one too old for this build's CUDA (nvidia-smi tells its version)";
  else if (code == cudaErrorNoDevice || code == cudaSuccess)
    *why = "the NVIDIA driver sees no GPU (nvidia-smi -L lists them, CUDA_VISIBLE_DEVICES may hide them)";
  else
    *why = cat("the NVIDIA driver does not start: ", cudaGetErrorName(code), " (", cudaGetErrorString(code),
               ")");
  return 0;
}

bool fits(int device, std::string* why) {
  bind_to(device);
  const AcceleratorProperties p = properties_of(device);
  if (p.major < 8)
    *why = cat("GPU ", device, " (", p.name, ") has compute capability ", p.major, ".", p.minor,
               "; Jambalaya needs 8.0 or higher");
  else if (!has_kernels_for_this_device())
    *why = cat("this build has no kernels for GPU ", device, " (", p.name, ", compute capability ", p.major,
               ".", p.minor, "): configure it with -DJAMBALAYA_CUDA_ARCHITECTURES=", p.major, p.minor);
  else
    return true;
  return false;
}

Accelerator* open_accelerator(int device) { return new CudaAccelerator(device); }

void throw_device_full(int64_t bytes) {
  size_t free = 0, total = 0;
  cudaGetLastError();
  cudaMemGetInfo(&free, &total);
  throw Error(Exit::io, cat("the GPU's memory is full: ", byte_text(bytes), " more asked for, ",
                            byte_text(int64_t(free)), " of ", byte_text(int64_t(total)),
                            " are free; lower the batch or sequence length, set train.recompute, shard "
                            "more, or end other processes on this GPU"));
}

}  // namespace jambalaya::cuda
