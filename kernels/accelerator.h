// One GPU as the host drives it: memory, streams, events, copies and the ops. The CUDA library (kernels/cuda)
// implements it and is loaded at run time (kernels/cuda_library.h), so that a CPU installation neither needs
// CUDA nor pays for it.
//
// Everything that takes a stream is only enqueued there. What is enqueued on one stream runs in order; what
// is on different streams is ordered by events alone. No function waits for the device unless its name says
// so. All functions may be called from any thread; two threads do not enqueue on one stream at the same time.
#pragma once
#include <cstdint>
#include <string>

namespace jambalaya {

class Ops;

struct AcceleratorProperties {
  std::string name;          ///< "NVIDIA H200"
  int major = 0, minor = 0;  ///< compute capability
  int multiprocessors = 0;
  double clock_hz = 0;                 ///< of the multiprocessors, at most; 0 when unknown
  int64_t memory_bytes = 0;            ///< of the device
  double memory_bytes_per_second = 0;  ///< peak of the memory bus, from clock and width; 0 when unknown
  std::string bus_id;                  ///< PCI address, unique in a host
  bool emulated = false;               ///< kernels run on the CPU (tests)
};

class Accelerator {
 public:
  using Stream = void*;  ///< a cudaStream_t
  using Event = void*;   ///< a cudaEvent_t

  virtual ~Accelerator() = default;
  virtual const AcceleratorProperties& properties() const = 0;
  virtual Ops& ops() = 0;
  /// Makes this the calling thread's device. Every function here does so by itself; a thread other than the
  /// one that opened the accelerator calls it before its first op.
  virtual void bind_thread() = 0;

  // ---- memory ----
  /// Address space of the device, without memory behind it. Throws Error(io).
  virtual void* reserve(int64_t bytes) = 0;
  /// Puts memory behind at least the first `bytes` of a reserved range (more of it than before, or nothing
  /// happens). What is there stays for the life of the range. Throws Error(io) when the device is full,
  /// naming how much is free and how much there is.
  virtual void commit(void* base, int64_t bytes) = 0;
  /// Waits for the device.
  virtual void release(void* base) = 0;
  /// Page-locked host memory, from which copies need no staging; the device can read and write it too.
  virtual void* pinned(int64_t bytes) = 0;
  virtual void free_pinned(void* memory) = 0;
  virtual int64_t free_bytes() = 0;  ///< of the device, just now

  // ---- order ----
  /// The stream of the thread that computes; made with the accelerator.
  virtual Stream compute_stream() = 0;
  virtual Stream new_stream() = 0;
  virtual void free_stream(Stream stream) = 0;
  virtual Event new_event() = 0;
  virtual void free_event(Event event) = 0;
  virtual void record(Event event, Stream stream) = 0;
  /// What is enqueued on `stream` from now on runs after what came before the event's last record().
  virtual void wait(Stream stream, Event event) = 0;
  virtual void wait_on_host(Event event) = 0;
  virtual void synchronize(Stream stream) = 0;
  /// True once all before the last record() is done.
  virtual bool reached(Event event) = 0;

  // ---- moving bytes, in any direction between host and device ----
  /// `rows` rows of `row_bytes`, their beginnings `to_pitch` and `from_pitch` bytes apart. Host memory that
  /// is not page-locked has been read when the call returns, and has been written only after synchronize(); a
  /// copy into it, or of more than 32 MiB from it, may wait for the stream.
  virtual void copy(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t row_bytes,
                    int64_t rows, Stream stream) = 0;
  virtual void fill(void* to, int64_t pitch, uint8_t byte, int64_t row_bytes, int64_t rows,
                    Stream stream) = 0;
};

}  // namespace jambalaya
