// Rows reach the ranks of their experts, sorted by expert, and results come back to where the rows were. Runs
// as one rank and as two and four, with tensors in host memory and on an emulated device.
#include "parallel/exchange.h"

#include <numeric>

#include "kernels/ops.h"
#include "tests/support/link.h"

namespace jambalaya {
namespace {

using test::Placed;
using test::world;

constexpr int64_t kExperts = 8, kColumns = 3;

/// Rows of rank r for expert x: some experts get none from some ranks, expert 5 none at all, and rank 1 has
/// none.
int64_t rows_for(int rank, int64_t expert) {
  return rank == 1 || expert == 5 ? 0 : (rank * 3 + expert * 5) % 4;
}
/// Element of a row: tells where it comes from.
float element(int rank, int64_t expert, int64_t i, int64_t column) {
  return float(((rank * kExperts + expert) * 4 + i) * kColumns + column);
}
void add_rows(std::vector<float>& to, int rank, int64_t expert) {
  for (int64_t i = 0; i < rows_for(rank, expert); i++)
    for (int64_t c = 0; c < kColumns; c++) to.push_back(element(rank, expert, i, c));
}

class Exchange : public testing::TestWithParam<int> {
 protected:
  void check(const Layout& layout) {
    Mesh mesh(world().split(0, "world"), layout, test::device_link());
    test::OpContext ops(1, "", int64_t(1) << 26);
    ops.run_ahead();
    Context& ctx = ops.context();
    Arena keep("kept", int64_t(1) << 26, ctx.accelerator);
    std::vector<float> mine;
    std::vector<int32_t> offsets{0};
    for (int64_t x = 0; x < kExperts; x++) {
      add_rows(mine, world().rank(), x);
      offsets.push_back(int32_t(mine.size()) / int32_t(kColumns));
    }
    const int64_t home = offsets.back();
    Placed<int32_t> placed_offsets(offsets);
    Placed<float> rows(mine), back(std::vector<float>(mine.size(), -1));
    const ExpertRoute route(ctx, mesh, keep, placed_offsets.tensor(), home);
    EXPECT_EQ(route.alone(), mesh.experts().size() == 1);

    const Tensor in = route.dispatch(ctx, rows.tensor({home, kColumns}), keep);
    expect_arrived(ctx, mesh, route, in);
    // Slice s of an expert's width yields s + 1 times the row.
    const Tensor sum = back.tensor({home, kColumns}), partial = route.partial(ctx, sum);
    ctx.ops->scale_copy(ctx, {.x = in, .y = partial, .alpha = float(mesh.expert_tensor_rank() + 1)});
    route.collect(ctx, partial, sum);
    const int slices = layout.expert_tensor;
    for (float& v : mine) v *= float(slices * (slices + 1) / 2);
    EXPECT_EQ(back.values(), mine);
  }

  void expect_arrived(Context& ctx, Mesh& mesh, const ExpertRoute& route, const Tensor& in) {
    const int64_t here = kExperts / mesh.layout().expert, first = mesh.expert_rank() * here;
    const int group = mesh.experts().size(), lowest = world().rank() / group * group;
    std::vector<float> want;
    std::vector<int32_t> offsets{0};
    for (int64_t x = first; x < first + here; x++) {
      for (int q = 0; q < group; q++) add_rows(want, group == 1 ? world().rank() : lowest + q, x);
      offsets.push_back(int32_t(want.size()) / int32_t(kColumns));
    }
    EXPECT_EQ(route.arrived(), offsets.back());
    EXPECT_EQ(to_host<float>(ctx, in), want);
    EXPECT_EQ(to_host<int32_t>(ctx, route.offsets()), offsets);
    if (!route.alone())
      EXPECT_EQ(std::vector<int32_t>(route.host_offsets(), route.host_offsets() + here + 1), offsets);
    else
      EXPECT_EQ(route.host_offsets(), nullptr) << "the host was not told";
  }
};

TEST_P(Exchange, rows_go_to_their_experts_and_results_come_home) {
  const int slices = GetParam();
  for (int experts = 1; experts * slices <= world().size(); experts *= 2) {
    if (world().size() % (experts * slices)) continue;
    SCOPED_TRACE(cat(experts, " expert ranks, ", slices, " slices"));
    check({.expert = experts, .expert_tensor = slices});
  }
}
INSTANTIATE_TEST_SUITE_P(Slices, Exchange, testing::Values(1, 2, 4));

}  // namespace
}  // namespace jambalaya

int main(int argc, char** argv) { return jambalaya::test::run_ranks(argc, argv); }
