#include "train/run/guard.h"

#include <xxhash.h>

#include <algorithm>

#include "kernels/error.h"
#include "kernels/trace.h"
#include "parallel/hosts.h"
#include "train/checkpoint/box_values.h"

namespace jambalaya {

namespace {

constexpr int64_t kPiece = 1 << 18;  // elements: a MiB of floats, no more than PieceMemory holds

uint64_t hash_of(const Tensor& x) { return XXH3_64bits(x.data, size_t(x.bytes())); }

}  // namespace

MemoryGuard::MemoryGuard(const Parameters& parameters, const Optimizer& optimizer, int rank)
    : parameters_(parameters), rank_(rank) {
  for (const OwnedSlice& slice : parameters.owned()) {
    const int64_t n = slice.end - slice.begin;
    const auto owned = [&](const Tensor& flat, int64_t at) { return flat.slice_rows(at, at + n); };
    add("weights", slice, owned(parameters.owned_master(), slice.at));
    add("first moments", slice, owned(optimizer.first_moments(), slice.at));
    add("second moments", slice, owned(optimizer.second_moments(), slice.at));
    if (const Tensor compute = parameters.owned_compute(slice.part))
      add("bf16 copy", slice, owned(compute, slice.at - parameters.parts()[size_t(slice.part)].owned));
  }
}

void MemoryGuard::add(const char* kind, const OwnedSlice& slice, const Tensor& memory) {
  const int64_t n = slice.end - slice.begin;
  for (int64_t at = 0; at < n; at += kPiece)
    pieces_.push_back({kind, slice.row, slice.begin + at, memory.slice_rows(at, std::min(at + kPiece, n))});
}

std::vector<uint64_t> MemoryGuard::hashes(Context& ctx) const {
  TraceScope traced("hashes of weights and moments", "verify");
  std::vector<uint64_t> all(pieces_.size());
  if (!ctx.accelerator) {
    const auto one = [&](int64_t i) { all[size_t(i)] = hash_of(pieces_[size_t(i)].memory); };
    if (ctx.pool)
      ctx.pool->run(int64_t(pieces_.size()), one);
    else
      for (int64_t i = 0; i < int64_t(pieces_.size()); i++) one(i);
    return all;
  }
  const PieceMemory staging(ctx.accelerator);
  for (size_t i = 0; i < pieces_.size(); i++) {
    const Tensor& there = pieces_[i].memory;
    const Tensor here = make_tensor(staging.data(), there.dtype, {there.numel()});
    copy(ctx, there, here);
    synchronize(ctx);
    all[i] = hash_of(here);
  }
  return all;
}

void MemoryGuard::remember(Context& ctx, int64_t step) {
  hashes_ = hashes(ctx);
  step_ = step;
}

void MemoryGuard::check(Context& ctx) const {
  if (hashes_.empty()) return;
  const std::vector<uint64_t> now = hashes(ctx);
  const auto [first, other] = std::mismatch(now.begin(), now.end(), hashes_.begin());
  if (first == now.end()) return;
  int64_t places = 0;
  for (size_t i = 0; i < now.size(); i++) places += now[i] != hashes_[i];
  const Piece& piece = pieces_[size_t(first - now.begin())];
  throw Error(Exit::failed,
              cat("memory has changed by itself since the update of step ", step_, ": ", piece.kind, " of ",
                  parameters_.table()[size_t(piece.row)].name, ", among elements ", piece.begin, " to ",
                  piece.begin + piece.memory.numel() - 1, ", on rank ", rank_, " on host ", host_name(),
                  places > 1 ? cat(", and ", places - 1, places == 2 ? " place more" : " places more") : "",
                  "; no checkpoint holds it: go on from the last one with --resume auto, and suspect the "
                  "memory of that "
                  "host when it happens again"));
}

int64_t MemoryGuard::bytes() const {
  int64_t sum = 0;
  for (const Piece& piece : pieces_) sum += piece.memory.bytes();
  return sum;
}

}  // namespace jambalaya
