// Rotary position embedding (Su et al. 2021).
#include <cmath>

#include "kernels/cpu/ops_cpu.h"
#include "kernels/op_checks.h"

namespace jambalaya {
namespace {

constexpr int64_t kTokens = 64;  // per chunk, and positions per table of small angles

struct Rotation {
  double cos, sin;
};

/// The angles of consecutive positions, in float64 through the addition theorem: a position is a multiple of
/// kTokens plus a rest, and the rests' rotations are tabled once. One cosine per table entry, not per token,
/// and no fp32 product position * frequency, which at position 2^18 would already be off by 0.01 rad.
class Angles {
 public:
  Angles(double theta, int64_t head_size, bool inverse, Rotation* table)
      : half_(head_size / 2), theta_(theta), sign_(inverse ? -1 : 1), table_(table) {
    for (int64_t rest = 0; rest < kTokens; rest++) fill(rest, table_ + rest * half_);
  }
  void fill(int64_t position, Rotation* row) const {
    for (int64_t j = 0; j < half_; j++) {
      double angle = double(position) * std::pow(theta_, -2.0 * double(j) / double(2 * half_));
      row[j] = {std::cos(angle), sign_ * std::sin(angle)};
    }
  }
  /// cos and sin of position base + rest, given base's rotations.
  void add(const Rotation* base, int64_t rest, float* cos, float* sin) const {
    const Rotation* small = table_ + rest * half_;
    for (int64_t j = 0; j < half_; j++) {
      cos[j] = float(base[j].cos * small[j].cos - base[j].sin * small[j].sin);
      sin[j] = float(base[j].sin * small[j].cos + base[j].cos * small[j].sin);
    }
  }

 private:
  int64_t half_;
  double theta_, sign_;
  Rotation* table_;
};

}  // namespace

void CpuOps::rope(Context& ctx, const Rope& args) {
  check_op(args);
  const Tensor& x = args.x;
  const int64_t size = args.head_size, tokens = args.docs.tokens, half = size / 2;
  if (tokens == 0) return;
  const int64_t chunks = (tokens + kTokens - 1) / kTokens;
  ArenaScope scope(*ctx.scratch);
  Angles angles(args.theta, size, args.inverse, ctx.scratch->array<Rotation>(kTokens * half, "rope.table"));
  auto* bases = ctx.scratch->array<Rotation>(chunks * half, "rope.base");
  auto* rows = ctx.scratch->array<float>(chunks * size, "rope.angles");
  auto rotate = x.dtype == DType::f32 ? simd_.attention.rope_f32 : simd_.attention.rope_bf16;
  ctx.pool->run(chunks, [&](int64_t chunk) {
    Rotation* base = bases + chunk * half;
    float *cos = rows + chunk * size, *sin = cos + half;
    int64_t based_on = -1, end = tokens < (chunk + 1) * kTokens ? tokens : (chunk + 1) * kTokens;
    for (int64_t t = chunk * kTokens; t < end; t++) {
      int64_t position = args.docs.position(t), rest = position % kTokens;
      if (position - rest != based_on) angles.fill(based_on = position - rest, base);
      angles.add(base, rest, cos, sin);
      rotate({x.address(t * x.row_stride), x.columns() / size, size, cos, sin});
    }
  });
}

}  // namespace jambalaya
