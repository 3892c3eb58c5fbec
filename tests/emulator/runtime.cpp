#include "tests/emulator/runtime.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "tests/emulator/memory.h"
#include "tests/emulator/streams.h"

using emulator::MemoryKind;

struct CUstream_st {
  std::shared_ptr<emulator::Stream> stream = emulator::Stream::make();
};

/// Where an event was recorded last. Kept by those who wait for it, so that the event may be recorded anew.
struct Record {
  std::shared_ptr<emulator::Stream> stream;
  uint64_t number = 0;  ///< of the task that is the record
  std::chrono::steady_clock::time_point time;
};
struct CUevent_st {
  std::mutex mutex;
  std::shared_ptr<Record> last;

  std::shared_ptr<Record> record() {
    std::lock_guard lock(mutex);
    return last;
  }
};

namespace {

emulator::Stream& stream_of(cudaStream_t handle) {
  static CUstream_st* const default_stream = new CUstream_st;
  return *(handle ? handle : default_stream)->stream;
}

int devices() {
  static const int count = [] {
    const char* text = std::getenv("JAMBALAYA_EMULATED_DEVICES");
    return text ? std::atoi(text) : 8;
  }();
  return count;
}

/// 90: 9.0.
int capability() {
  const char* text = std::getenv("JAMBALAYA_EMULATED_CAPABILITY");
  return text ? std::atoi(text) : 90;
}

thread_local int current_device = 0;

cudaError_t allocate_pinned(void** memory, size_t bytes) {
  *memory = emulator::allocate_pinned(bytes);
  return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}

void copy_rows(char* to, size_t to_pitch, const char* from, size_t from_pitch, size_t row_bytes,
               size_t rows) {
  for (size_t r = 0; r < rows; r++) std::memmove(to + r * to_pitch, from + r * from_pitch, row_bytes);
}

}  // namespace

void emulator::enqueue(cudaStream_t stream, std::function<void()> task) {
  stream_of(stream).enqueue(std::move(task));
}

// ---- errors and devices ----------------------------------------------------------------------------------

const char* cudaGetErrorName(cudaError_t code) {
  switch (code) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorInvalidDeviceFunction:
      return "cudaErrorInvalidDeviceFunction";
    case cudaErrorNoKernelImageForDevice:
      return "cudaErrorNoKernelImageForDevice";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
  }
  return "unknown";
}
const char* cudaGetErrorString(cudaError_t) { return "of the emulated device"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaPeekAtLastError() { return cudaSuccess; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = devices();
  return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= devices()) return cudaErrorInvalidDevice;
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device < 0 || device >= devices()) return cudaErrorInvalidDevice;
  switch (attribute) {  // an H100's, but that nobody knows its clocks
    case cudaDevAttrMultiProcessorCount:
      *value = 132;
      return cudaSuccess;
    case cudaDevAttrClockRate:
    case cudaDevAttrMemoryClockRate:
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = 0;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = capability() / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = capability() % 10;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 227 << 10;
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= devices()) return cudaErrorInvalidDevice;
  *properties = {"emulated device", emulator::device_bytes(), 9, 0, 132};
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* text, int bytes, int device) {
  if (device < 0 || device >= devices()) return cudaErrorInvalidDevice;
  std::snprintf(text, size_t(bytes), "0000:%02x:00.0", unsigned(device));
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  return emulator::Stream::run_all() ? cudaSuccess : cudaErrorLaunchFailure;
}

// ---- memory ----------------------------------------------------------------------------------------------

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = emulator::device_bytes_free(), *total = emulator::device_bytes();
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) { return allocate_pinned(memory, bytes); }
cudaError_t cudaMallocHost(void** memory, size_t bytes) { return allocate_pinned(memory, bytes); }
cudaError_t cudaFreeHost(void* memory) {
  if (!memory) return cudaSuccess;
  if (emulator::kind_of(memory) != MemoryKind::pinned) return cudaErrorInvalidValue;
  // The device may be reading it: the real function waits as well.
  emulator::Stream::run_all();
  return emulator::free_pinned(memory) ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
  void* const p = const_cast<void*>(address);
  switch (emulator::kind_of(address)) {
    case MemoryKind::device:
      *attributes = {cudaMemoryTypeDevice, current_device, p, nullptr};
      break;
    case MemoryKind::pinned:
      *attributes = {cudaMemoryTypeHost, current_device, p, p};
      break;
    case MemoryKind::pageable:
      *attributes = {cudaMemoryTypeUnregistered, -1, nullptr, p};
  }
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t row_bytes, size_t rows, cudaMemcpyKind kind, cudaStream_t stream) {
  if (row_bytes == 0 || rows == 0) return cudaSuccess;
  if (!to || !from || to_pitch < row_bytes || from_pitch < row_bytes) return cudaErrorInvalidValue;
  const MemoryKind to_kind = emulator::kind_of(to), from_kind = emulator::kind_of(from);
  const bool to_device = to_kind == MemoryKind::device, from_device = from_kind == MemoryKind::device;
  if (kind != cudaMemcpyDefault &&
      (to_device != (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) ||
       from_device != (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice)))
    return cudaErrorInvalidValue;
  char* const t = static_cast<char*>(to);
  const char* const f = static_cast<const char*>(from);
  if (from_kind == MemoryKind::pageable) {
    std::vector<char> read(row_bytes * rows);
    copy_rows(read.data(), row_bytes, f, from_pitch, row_bytes, rows);
    emulator::enqueue(stream, [=, staged = std::move(read)] {
      copy_rows(t, to_pitch, staged.data(), row_bytes, row_bytes, rows);
    });
  } else {
    emulator::enqueue(stream, [=] { copy_rows(t, to_pitch, f, from_pitch, row_bytes, rows); });
  }
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int byte, size_t bytes, cudaStream_t stream) {
  return cudaMemset2DAsync(to, bytes, byte, bytes, 1, stream);
}
cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int byte, size_t row_bytes, size_t rows,
                              cudaStream_t stream) {
  if (row_bytes == 0 || rows == 0) return cudaSuccess;
  if (!to || pitch < row_bytes || emulator::kind_of(to) == MemoryKind::pageable) return cudaErrorInvalidValue;
  emulator::enqueue(stream, [=] {
    for (size_t r = 0; r < rows; r++) std::memset(static_cast<char*>(to) + r * pitch, byte, row_bytes);
  });
  return cudaSuccess;
}

// ---- streams and events ----------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (!stream) return cudaErrorInvalidResourceHandle;
  const std::unique_ptr<CUstream_st> handle(stream);
  return handle->stream->finish() ? cudaSuccess : cudaErrorLaunchFailure;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  emulator::Stream& s = stream_of(stream);
  s.synchronize(s.last());
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  emulator::Stream& s = stream_of(stream);
  return s.reached(s.last()) ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (!event) return cudaErrorInvalidResourceHandle;
  const auto record = event->record();
  if (!record || record->stream.get() == &stream_of(stream)) return cudaSuccess;  // in order as it is
  emulator::enqueue(stream, [record] { record->stream->run_until(record->number); });
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument) {
  if (!function) return cudaErrorInvalidValue;
  emulator::enqueue(stream, [=] { function(argument); });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (!event) return cudaErrorInvalidResourceHandle;
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (!event) return cudaErrorInvalidResourceHandle;
  const auto record = std::make_shared<Record>();
  emulator::Stream& s = stream_of(stream);
  record->stream = s.shared_from_this();
  record->number = s.enqueue([record] { record->time = std::chrono::steady_clock::now(); });
  std::lock_guard lock(event->mutex);
  event->last = record;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (!event) return cudaErrorInvalidResourceHandle;
  if (const auto record = event->record()) record->stream->synchronize(record->number);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (!event) return cudaErrorInvalidResourceHandle;
  const auto record = event->record();
  return !record || record->stream->reached(record->number) ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  if (!begin || !end) return cudaErrorInvalidResourceHandle;
  const auto first = begin->record(), second = end->record();
  if (!first || !second) return cudaErrorInvalidResourceHandle;
  if (!first->stream->reached(first->number) || !second->stream->reached(second->number))
    return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(second->time - first->time).count();
  return cudaSuccess;
}
