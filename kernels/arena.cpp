#include "kernels/arena.h"

#include <sys/mman.h>

#include <algorithm>

namespace jambalaya {

namespace {
constexpr int64_t kHuge = 2 << 20;
int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
}  // namespace

Arena::Arena(std::string name, int64_t capacity, Accelerator* accelerator)
    : name_(std::move(name)), accelerator_(accelerator), capacity_(round_up(capacity, kHuge)) {
  if (accelerator_) {
    base_ = static_cast<char*>(accelerator_->reserve(capacity_));
    return;
  }
  void* p = mmap(nullptr, size_t(capacity_), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED)
    throw Error(Exit::io, cat("cannot reserve ", capacity_ >> 20, " MiB of address space for the ", name_,
                              " arena: raise or remove the limit set by 'ulimit -v'"));
  madvise(p, size_t(capacity_), MADV_HUGEPAGE);
  base_ = static_cast<char*>(p);
}

Arena::~Arena() {
  if (accelerator_)
    accelerator_->release(base_);
  else
    munmap(base_, size_t(capacity_));
}

void* Arena::take(int64_t bytes, const char* tag) {
  JAMBALAYA_CHECK(bytes >= 0);
  int64_t n = round_up(std::max<int64_t>(bytes, 1), accelerator_ ? 256 : 64);
  if (n > capacity_ - top_)
    throw Error(Exit::io, cat("the ", name_, " arena is full: ", tag, " needs ", n, " bytes, ",
                              capacity_ - top_, " of ", capacity_,
                              " are left; lower the batch or sequence length, or set train.recompute"));
  if (accelerator_) accelerator_->commit(base_, top_ + n);
  char* p = base_ + top_;
  top_ += n;
  high_water_ = std::max(high_water_, top_);
  auto used = tag_used_.try_emplace(tag, 0).first;
  used->second += n;
  int64_t& high = tag_high_[used->first];
  high = std::max(high, used->second);
  blocks_.push_back({n, used});
  return p;
}

Tensor Arena::tensor(DType dtype, std::initializer_list<int64_t> shape, const char* tag) {
  Tensor t = make_tensor(nullptr, dtype, shape, device());
  t.data = take(t.bytes(), tag);
  return t;
}

void Arena::release(Mark mark) {
  JAMBALAYA_CHECK(mark.top <= top_ && mark.blocks <= blocks_.size(), name_, " released out of order");
  while (blocks_.size() > mark.blocks) {
    blocks_.back().used->second -= blocks_.back().bytes;
    blocks_.pop_back();
  }
  top_ = mark.top;
}

void Arena::reset_high_water() {
  high_water_ = top_;
  tag_high_ = tag_used_;
}

}  // namespace jambalaya
