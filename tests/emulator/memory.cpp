#include "tests/emulator/memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace emulator {
namespace {

struct Block {
  size_t bytes = 0, committed = 0;
  MemoryKind kind = MemoryKind::pageable;
};

/// Every block of pinned and device memory by its first address.
struct Memory {
  std::mutex mutex;
  std::map<uintptr_t, Block> blocks;
  size_t committed = 0;  ///< of all device blocks
  int accesses = 0;      ///< DeviceAccess objects alive
};

/// Never destroyed: threads may still run tasks while the process ends.
Memory& memory() {
  static Memory* const all = new Memory;
  return *all;
}

constexpr size_t kPage = 4096;
size_t whole_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

uintptr_t address_of(const void* p) { return reinterpret_cast<uintptr_t>(p); }

void protect_all(Memory& all, int protection) {
  for (const auto& [base, block] : all.blocks)
    if (block.kind == MemoryKind::device && block.committed)
      mprotect(reinterpret_cast<void*>(base), block.committed, protection);
}

}  // namespace

MemoryKind kind_of(const void* address) {
  Memory& all = memory();
  std::lock_guard lock(all.mutex);
  auto after = all.blocks.upper_bound(address_of(address));
  if (after == all.blocks.begin()) return MemoryKind::pageable;
  const auto& [base, block] = *std::prev(after);
  return address_of(address) < base + block.bytes ? block.kind : MemoryKind::pageable;
}

void* reserve_device(size_t bytes) {
  void* base =
      mmap(nullptr, whole_pages(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return nullptr;
  Memory& all = memory();
  std::lock_guard lock(all.mutex);
  all.blocks[address_of(base)] = {whole_pages(bytes), 0, MemoryKind::device};
  return base;
}

bool commit_device(void* base, size_t bytes) {
  Memory& all = memory();
  std::lock_guard lock(all.mutex);
  const auto found = all.blocks.find(address_of(base));
  if (found == all.blocks.end() || bytes > found->second.bytes) return false;
  Block& block = found->second;
  bytes = whole_pages(bytes);
  if (bytes <= block.committed) return true;
  const size_t more = bytes - block.committed;
  if (all.committed + more > device_bytes()) return false;
  char* at = static_cast<char*>(base) + block.committed;
  if (mprotect(at, more, PROT_READ | PROT_WRITE) != 0) return false;
  std::memset(at, 0xff, more);
  if (all.accesses == 0) mprotect(at, more, PROT_NONE);
  block.committed = bytes, all.committed += more;
  return true;
}

void release_device(void* base) {
  Memory& all = memory();
  std::lock_guard lock(all.mutex);
  const auto found = all.blocks.find(address_of(base));
  if (found == all.blocks.end()) return;
  all.committed -= found->second.committed;
  munmap(base, found->second.bytes);
  all.blocks.erase(found);
}

size_t device_bytes() {
  static const size_t bytes = [] {
    const char* text = std::getenv("JAMBALAYA_EMULATED_MEMORY");
    return text ? size_t(std::strtoull(text, nullptr, 10)) : size_t(16) << 30;
  }();
  return bytes;
}

size_t device_bytes_free() {
  Memory& all = memory();
  std::lock_guard lock(all.mutex);
  return device_bytes() - all.committed;
}

void* allocate_pinned(size_t bytes) {
  bytes = whole_pages(bytes ? bytes : 1);
  void* const block = std::aligned_alloc(kPage, bytes);
  if (!block) return nullptr;
  std::memset(block, 0xff, bytes);
  Memory& all = memory();
  std::lock_guard lock(all.mutex);
  all.blocks[address_of(block)] = {bytes, 0, MemoryKind::pinned};
  return block;
}

bool free_pinned(void* block) {
  Memory& all = memory();
  {
    std::lock_guard lock(all.mutex);
    const auto found = all.blocks.find(address_of(block));
    if (found == all.blocks.end() || found->second.kind != MemoryKind::pinned) return false;
    all.blocks.erase(found);
  }
  std::free(block);
  return true;
}

DeviceAccess::DeviceAccess() {
  Memory& all = memory();
  std::lock_guard lock(all.mutex);
  if (all.accesses++ == 0) protect_all(all, PROT_READ | PROT_WRITE);
}

DeviceAccess::~DeviceAccess() {
  Memory& all = memory();
  std::lock_guard lock(all.mutex);
  if (--all.accesses == 0) protect_all(all, PROT_NONE);
}

}  // namespace emulator
