// Stack allocators, one per lifetime (parameters, gradients, optimizer, saved, scratch, communication), in
// host or device memory. No step of training allocates from the system: an arena reserves address space once
// and pages stay.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kernels/accelerator.h"
#include "kernels/tensor.h"

namespace jambalaya {

class Arena {
 public:
  /// Reserves `capacity` bytes of address space (not of memory: pages come when first touched, on a device
  /// when first taken). In the memory of `accelerator`, or of the host where it is null.
  Arena(std::string name, int64_t capacity, Accelerator* accelerator = nullptr);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// 64-byte aligned (256 on a device), not initialised. `tag` names the purpose in the memory table.
  void* take(int64_t bytes, const char* tag);
  Tensor tensor(DType dtype, std::initializer_list<int64_t> shape, const char* tag);
  template <class T>
  T* array(int64_t n, const char* tag) {
    return static_cast<T*>(take(n * int64_t(sizeof(T)), tag));
  }

  struct Mark {
    int64_t top;
    size_t blocks;
  };
  Mark mark() const { return {top_, blocks_.size()}; }
  /// Gives back all that was taken since the mark (last in, first out).
  void release(Mark mark);

  const std::string& name() const { return name_; }
  Device device() const { return accelerator_ ? Device::cuda : Device::cpu; }
  int64_t in_use() const { return top_; }
  int64_t high_water() const { return high_water_; }
  void reset_high_water();
  /// Largest simultaneous use of each tag, in bytes.
  const std::map<std::string, int64_t>& high_water_by_tag() const { return tag_high_; }

 private:
  struct Block {
    int64_t bytes;
    std::map<std::string, int64_t>::iterator used;
  };
  std::string name_;
  Accelerator* accelerator_ = nullptr;
  char* base_ = nullptr;
  int64_t capacity_ = 0, top_ = 0, high_water_ = 0;
  std::vector<Block> blocks_;
  std::map<std::string, int64_t> tag_used_, tag_high_;
};

/// Releases the arena to where it stood, at the end of a C++ scope.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

}  // namespace jambalaya
