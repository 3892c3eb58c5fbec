// The table of matrix products of one instruction set. Packing: gemm_pack.h, tiles: gemm_tile.h, AMX:
// gemm_amx.h.
#include "kernels/cpu/simd/gemm.h"

#include "kernels/cpu/simd/gemm_tile.h"
#if defined(__AMX_BF16__)
#include "kernels/cpu/simd/gemm_amx.h"
#endif

namespace jambalaya::JAMBALAYA_NS {
namespace {

template <class Lane, class T>
constexpr GemmFormat vector_format() {
  return {.mr = kTileRows,
          .nr = kTileColumns,
          .k_step = Lane::kElements,
          .step_lanes = 1,
          .tiled_a = false,
          .pack_a = pack_a<Lane, kTileRows>,
          .pack_b = pack_b<Lane, kTileColumns>,
          .block = block<Lane>,
          .dot_rows = dot_rows<Lane>,
          .add_rows = add_rows<T>};
}

#if defined(__AMX_BF16__)
constexpr GemmFormat kBf16{.mr = kAmxRows,
                           .nr = kAmxColumns,
                           .k_step = 2 * kAmxLanes,
                           .step_lanes = kAmxLanes,
                           .tiled_a = true,
                           .pack_a = pack_a_tiled,
                           .pack_b = pack_b<PairLane, kAmxColumns>,
                           .block = block_amx,
                           .dot_rows = dot_rows<PairLane>,
                           .add_rows = add_rows<bf16>};
#elif defined(__AVX512BF16__)
constexpr GemmFormat kBf16 = vector_format<PairLane, bf16>();
#else
constexpr GemmFormat kBf16 =
    vector_format<FloatLane<bf16>, bf16>();  // no bf16 products: widened while packing
#endif

}  // namespace

extern const GemmKernels gemm_kernels;
const GemmKernels gemm_kernels{vector_format<FloatLane<float>, float>(), kBf16};

}  // namespace jambalaya::JAMBALAYA_NS
