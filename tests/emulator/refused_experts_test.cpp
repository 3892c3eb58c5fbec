// Products of large experts when the vendor's library takes none of them: this program's make_products is the
// emulated device's.
#include <gtest/gtest.h>

#include "kernels/cuda/products.h"
#include "tests/kernels/reference/gemm.h"
#include "tests/support/op_test.h"

namespace jambalaya::cuda {
namespace {

int asked = 0;

class RefusingProducts final : public Products {
 public:
  void gemm(Context&, const Gemm&) override { JAMBALAYA_CHECK(false, "no single product here"); }
  bool experts(Context&, const GroupedGemm&) override {
    asked++;
    return false;
  }
  const char* name() const override { return "refusing"; }
};

}  // namespace

std::unique_ptr<Products> make_products(const AcceleratorProperties&) {
  return std::make_unique<RefusingProducts>();
}

}  // namespace jambalaya::cuda

namespace jambalaya::test {
namespace {

TEST(RefusedExperts, are_computed_by_our_own_kernels) {
  const auto ctx = make_context();
  const int64_t rows = 256, n = 8192, k = 3;  // large enough for the library
  Owned a(DType::bf16, {rows, k}), w(DType::bf16, {1, n, k}), y(DType::bf16, {rows, n}),
      offsets(DType::i32, {2});
  a.uniform(1), w.uniform(2), offsets.assign({0, double(rows)});
  (*ctx)->grouped_gemm(*ctx, {.kind = GroupedGemm::Kind::forward,
                              .a = a,
                              .w = w,
                              .y = y,
                              .offsets = offsets,
                              .host_offsets = offsets.ptr<int32_t>()});
  EXPECT_EQ(cuda::asked, 1);
  std::vector<double> w_values;
  for (int64_t i = 0; i < n * k; i++) w_values.push_back(double(to_float(w.ptr<bf16>()[i])));
  const auto want = reference::gemm(a.values(), false, w_values, true,
                                    std::vector<double>(size_t(rows * n), 0.), rows, n, k);
  EXPECT_LE(relative_l2(y, want), 4e-3);
}

}  // namespace
}  // namespace jambalaya::test
