#include "tests/emulator/fibres.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef __x86_64__
#error "the emulator's stack switch is written for x86-64"
#endif

// Saves the registers that a call must keep on the stack, and goes on where the other stack was left.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, .-emulator_switch
)");

namespace emulator {

thread_local Fibre* running = nullptr;
thread_local Block block;

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStack = 256 << 10;
#else
constexpr size_t kStack = 64 << 10;
#endif

/// The blocks of one launch run here, on one host thread; stacks and fibres are used again.
class Engine {
 public:
  ~Engine() {
    for (void* stack : stacks_) munmap(stack, kStack);
  }
  void run_block(const std::function<void()>& body, size_t shared_bytes);
  void yield() {
    Fibre* self = running;
    leave_fibre(&self->sanitizer_stack);
    emulator_switch(&self->stack_pointer, scheduler_);
    enter_fibre(self->sanitizer_stack);
  }
  void arrive_at_barrier(int value);
  void arrive_in_warp(unsigned mask, WarpFunction function, void* argument);
  void* shared() { return shared_; }
  const char* kernel = "";

 private:
  static void entry();
  void prepare(unsigned threads);
  void wake(Fibre& fibre) {
    fibre.state = State::ready;
    ready_.push_back(&fibre);
  }
  void resume(Fibre* fibre);
  void finished();
  [[noreturn]] void stuck();

  // AddressSanitizer must be told whenever the stack changes.
  void leave_fibre([[maybe_unused]] void** save) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(save, scheduler_bottom_, scheduler_size_);
#endif
  }
  void enter_fibre([[maybe_unused]] void* saved) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(saved, &scheduler_bottom_, &scheduler_size_);
#endif
  }

  uint64_t draw() {  // xorshift64*
    random_ ^= random_ >> 12, random_ ^= random_ << 25, random_ ^= random_ >> 27;
    return random_ * 0x2545f4914f6cdd1dull;
  }
  /// Another order in every run, so that repeated runs of the tests try many; told, so that it can be
  /// repeated.
  static uint64_t seed() {
    static const uint64_t chosen = [] {
      if (const char* text = std::getenv("JAMBALAYA_EMULATOR_SEED")) return std::strtoull(text, nullptr, 10);
      const unsigned long long drawn = std::random_device()();
      std::fprintf(stderr, "order of fibres: JAMBALAYA_EMULATOR_SEED=%llu\n", drawn);
      return drawn;
    }();
    return 0x9e3779b97f4a7c15ull * (chosen + 1);
  }

  const std::function<void()>* body_ = nullptr;
  std::vector<Fibre> fibres_;
  std::vector<void*> stacks_;
  std::vector<Fibre*> ready_;
  unsigned threads_ = 0, at_barrier_ = 0, left_ = 0;
  int sum_ = 0, all_ = 1;
  void* scheduler_ = nullptr;
  const void* scheduler_bottom_ = nullptr;
  size_t scheduler_size_ = 0;
  std::unique_ptr<char[]> shared_memory_;
  void* shared_ = nullptr;
  uint64_t random_ = seed();
};
thread_local Engine engine;

void Engine::entry() {
  engine.enter_fibre(nullptr);
  (*engine.body_)();
  engine.finished();
  Fibre* self = running;
  engine.leave_fibre(nullptr);  // for good
  emulator_switch(&self->stack_pointer, engine.scheduler_);
}

void Engine::prepare(unsigned threads) {
  threads_ = threads, at_barrier_ = left_ = 0, sum_ = 0, all_ = 1;
  if (fibres_.size() < threads) fibres_.resize(threads);
  while (stacks_.size() < threads) {
    void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED) fail("no memory for the threads' stacks");
    stacks_.push_back(stack);
  }
  ready_.clear();
  for (unsigned i = 0; i < threads; i++) {
    Fibre& f = fibres_[i];
    f.number = i;
    f.thread = {i % block.size.x, i / block.size.x % block.size.y, i / (block.size.x * block.size.y)};
    f.copies.clear();
    f.copy_group = 0;
    // As if entry() had been called: a return address, six registers, the stack as a call leaves it.
    void** top = reinterpret_cast<void**>(static_cast<char*>(stacks_[i]) + kStack - 64);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&entry);
    for (int r = 0; r < 6; r++) *--top = nullptr;
    f.stack_pointer = top;
    wake(f);
  }
}

void Engine::resume(Fibre* fibre) {
  running = fibre;
#if defined(__SANITIZE_ADDRESS__)
  void* own = nullptr;
  __sanitizer_start_switch_fiber(&own, stacks_[fibre->number], kStack);
#endif
  emulator_switch(&scheduler_, fibre->stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(own, nullptr, nullptr);
#endif
  running = nullptr;
}

void Engine::run_block(const std::function<void()>& body, size_t shared_bytes) {
  body_ = &body;
  // Exactly as large as asked for, so that AddressSanitizer sees what goes past it; poisoned: it begins as
  // garbage on a GPU.
  shared_memory_.reset(new char[shared_bytes + 1024]);
  shared_ = shared_memory_.get();
  size_t room = shared_bytes + 1024;
  std::align(1024, shared_bytes, shared_, room);
  std::memset(shared_, 0xff, shared_bytes);
  prepare(block.size.x * block.size.y * block.size.z);
  while (!ready_.empty()) {
    std::swap(ready_[draw() % ready_.size()], ready_.back());
    Fibre* next = ready_.back();
    ready_.pop_back();
    resume(next);
  }
  if (left_ != threads_) stuck();
}

void Engine::finished() {
  running->state = State::left;
  left_++;
  if (at_barrier_ > 0) fail("a thread has left the kernel while others wait at a barrier");
  // Lanes that wait for this one in a warp operation wait no more.
  const unsigned first = running->number / 32 * 32;
  for (unsigned i = first; i < threads_ && i < first + 32; i++) {
    Fibre& f = fibres_[i];
    if (f.state == State::in_warp_operation && (f.mask >> (running->number % 32) & 1))
      fail("a thread has left the kernel while lanes of its warp wait for it");
  }
}

void Engine::arrive_at_barrier(int value) {
  if (left_ > 0) fail("a barrier is reached after some threads have left the kernel");
  sum_ += value != 0, all_ &= value != 0;
  if (++at_barrier_ < threads_) {
    running->state = State::at_barrier;
    return yield();
  }
  block.barrier_sum = sum_, block.barrier_all = all_;
  at_barrier_ = 0, sum_ = 0, all_ = 1;
  for (unsigned i = 0; i < threads_; i++)
    if (fibres_[i].state == State::at_barrier) wake(fibres_[i]);
}

void Engine::arrive_in_warp(unsigned mask, WarpFunction function, void* argument) {
  Fibre& self = *running;
  const unsigned lane = self.number % 32, first = self.number - lane;
  if (!(mask >> lane & 1)) fail("a thread calls a warp operation whose mask leaves it out");
  void* arguments[32] = {};
  arguments[lane] = argument;
  bool complete = true;
  for (unsigned i = 0; i < 32; i++) {
    if (!(mask >> i & 1) || i == lane || first + i >= threads_) continue;
    Fibre& other = fibres_[first + i];
    if (other.state == State::left) fail("a warp operation waits for a lane that has left the kernel");
    if (other.state != State::in_warp_operation || other.mask != mask) {
      complete = false;
      continue;
    }
    if (other.function != function) fail("lanes of one mask are in different warp operations");
    arguments[i] = other.argument;
  }
  if (!complete) {
    self.state = State::in_warp_operation;
    self.mask = mask, self.function = function, self.argument = argument;
    return yield();
  }
  function(arguments);
  for (unsigned i = 0; i < 32; i++)
    if (arguments[i] && i != lane) wake(fibres_[first + i]);
}

void Engine::stuck() {
  unsigned waiting[4] = {};
  for (unsigned i = 0; i < threads_; i++) waiting[int(fibres_[i].state)]++;
  char text[200];
  std::snprintf(
      text, sizeof text, "threads wait for each other: %u at a barrier, %u in warp operations, %u left",
      waiting[int(State::at_barrier)], waiting[int(State::in_warp_operation)], waiting[int(State::left)]);
  fail(text);
}

}  // namespace

void run(const char* kernel, dim3 grid, dim3 threads, size_t shared_bytes,
         const std::function<void()>& body) {
  engine.kernel = kernel;
  if (threads.x * threads.y * threads.z > 1024) fail("more than 1024 threads a block");
  if (shared_bytes > 227 << 10) fail("more than 227 KiB of shared memory a block");
  if (grid.y > 65535 || grid.z > 65535) fail("a grid's y and z have at most 65535 blocks");
  block.size = threads, block.grid = grid;
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        block.index = {x, y, z};
        engine.run_block(body, shared_bytes);
      }
}

void* dynamic_shared() { return engine.shared(); }
void barrier(int value) { engine.arrive_at_barrier(value); }
void warp_operation(unsigned mask, WarpFunction function, void* argument) {
  engine.arrive_in_warp(mask, function, argument);
}

void fail(const char* message) {
  std::fprintf(stderr, "emulated kernel %s, block (%u, %u, %u) of (%u, %u, %u)", engine.kernel, block.index.x,
               block.index.y, block.index.z, block.grid.x, block.grid.y, block.grid.z);
  if (running) std::fprintf(stderr, ", thread %u", running->number);
  std::fprintf(stderr, ": %s\n", message);
  std::abort();
}

}  // namespace emulator
