// A device that counts how often the host waits for it.
#pragma once
#include "kernels/accelerator.h"

namespace jambalaya::test {

class CountingAccelerator final : public Accelerator {
 public:
  explicit CountingAccelerator(Accelerator& device) : device_(device) {}
  int waits = 0;

  const AcceleratorProperties& properties() const override { return device_.properties(); }
  void bind_thread() override { device_.bind_thread(); }
  Ops& ops() override { return device_.ops(); }
  void* reserve(int64_t bytes) override { return device_.reserve(bytes); }
  void commit(void* base, int64_t bytes) override { device_.commit(base, bytes); }
  void release(void* base) override { device_.release(base); }
  void* pinned(int64_t bytes) override { return device_.pinned(bytes); }
  void free_pinned(void* memory) override { device_.free_pinned(memory); }
  int64_t free_bytes() override { return device_.free_bytes(); }
  Stream compute_stream() override { return device_.compute_stream(); }
  Stream new_stream() override { return device_.new_stream(); }
  void free_stream(Stream stream) override { device_.free_stream(stream); }
  Event new_event() override { return device_.new_event(); }
  void free_event(Event event) override { device_.free_event(event); }
  void record(Event event, Stream stream) override { device_.record(event, stream); }
  void wait(Stream stream, Event event) override { device_.wait(stream, event); }
  void wait_on_host(Event event) override { waits++, device_.wait_on_host(event); }
  void synchronize(Stream stream) override { waits++, device_.synchronize(stream); }
  bool reached(Event event) override { return device_.reached(event); }
  void copy(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t row_bytes, int64_t rows,
            Stream stream) override {
    device_.copy(to, to_pitch, from, from_pitch, row_bytes, rows, stream);
  }
  void fill(void* to, int64_t pitch, uint8_t byte, int64_t row_bytes, int64_t rows, Stream stream) override {
    device_.fill(to, pitch, byte, row_bytes, rows, stream);
  }

 private:
  Accelerator& device_;
};

}  // namespace jambalaya::test
