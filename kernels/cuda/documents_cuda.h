// Documents as kernels read them, and where a segment has its carried state. Conventions: "Carried state" in
// kernels/ops_state_space.h.
#pragma once
#include <cuda_runtime.h>

#include "kernels/context.h"
#include "kernels/documents.h"

namespace jambalaya::cuda {

/// `docs` with device_offsets, device_first_position and device_segment_of set: as they are where the caller
/// has set them, else copied to scratch on the context's stream (the caller holds an ArenaScope).
Documents device_documents(const Context& ctx, const Documents& docs);

/// Segment s's entry of `size` elements among those of starts (h0, left, ...); null: none given, or with
/// ends_only none of its own.
template <class P>
__device__ __forceinline__ P* start_entry(P* entries, int64_t size, int64_t s, bool ends_only) {
  return !entries || (ends_only && s > 0) ? nullptr : entries + s * size;
}
/// The same among those of ends (h_last, tail, ...), of which ends_only leaves the last one.
template <class P>
__device__ __forceinline__ P* end_entry(P* entries, int64_t size, int64_t s, int64_t segments,
                                        bool ends_only) {
  if (!entries || (ends_only && s + 1 < segments)) return nullptr;
  return entries + (ends_only ? 0 : s) * size;
}

}  // namespace jambalaya::cuda
