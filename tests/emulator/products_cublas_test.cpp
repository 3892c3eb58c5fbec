// What kernels/cuda/products_cublas.cpp asks of cuBLASLt, with a library in its place that computes by
// definition: row-major matrices through a column-major door, strides, alignments, kept algorithms.
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>

#include "kernels/cuda/products.h"
#include "tests/emulator/fake_cublaslt.h"
#include "tests/kernels/reference/gemm.h"
#include "tests/support/op_test.h"

namespace jambalaya::test {
namespace {

using cuda::make_products;
using cuda::Products;
using Kind = GroupedGemm::Kind;

double tolerance(DType t) { return t == DType::bf16 ? 4e-3 : 1e-6; }

class ProductsTest : public testing::Test {
 protected:
  void SetUp() override { fake_cublaslt::clear(); }
  void expect_right(int64_t m, int64_t n, int64_t k, DType in, DType out, int bits, int64_t gap) {
    const bool ta = bits & 1, tb = bits & 2, accumulate = bits & 4;
    Owned a(in, {ta ? k : m, ta ? m : k}, (ta ? m : k) + gap),
        b(in, {tb ? n : k, tb ? k : n}, (tb ? k : n) + gap), c(out, {m, n}, n + gap);
    a.uniform(1), b.uniform(2);
    if (accumulate) c.uniform(3);
    const auto want =
        reference::gemm(a.values(), ta, b.values(), tb,
                        accumulate ? c.values() : std::vector<double>(size_t(m * n), 0.), m, n, k);
    products->gemm(*ctx, {a, b, c, ta, tb, accumulate});
    EXPECT_LE(relative_l2(c, want), tolerance(out)) << m << " " << n << " " << k << " " << name_of(in) << " "
                                                    << name_of(out) << " " << bits << " " << gap;
    EXPECT_TRUE(c.guards_intact());
    EXPECT_EQ(ctx->scratch.in_use(), 0);
  }
  std::unique_ptr<TestContext> ctx = make_context();
  std::unique_ptr<Products> products = make_products({});
};

TEST_F(ProductsTest, right_for_every_transpose_dtype_stride_and_accumulation) {
  for (auto [m, n, k] : {std::array<int64_t, 3>{1, 1, 1}, {3, 70, 37}, {8, 16, 24}, {1, 5, 4}, {6, 1, 2}})
    for (DType in : {DType::f32, DType::bf16})
      for (DType out : {DType::f32, DType::bf16})
        for (int bits = 0; bits < 8; bits++)
          for (int64_t gap : {0, 3, 8}) expect_right(m, n, k, in, out, bits, gap);
}

TEST_F(ProductsTest, an_empty_sum_is_zero_or_what_was_there_without_the_library) {
  for (DType out : {DType::f32, DType::bf16}) {
    expect_right(3, 5, 0, DType::bf16, out, 0, 2);
    expect_right(3, 5, 0, DType::bf16, out, 4, 2);
    expect_right(0, 5, 2, DType::bf16, out, 0, 0);
    expect_right(3, 0, 2, DType::bf16, out, 0, 1);
  }
  EXPECT_TRUE(fake_cublaslt::record().heuristics.empty());
}

TEST_F(ProductsTest, one_algorithm_is_kept_for_each_shape_stride_and_alignment) {
  auto& record = fake_cublaslt::record();
  for (int run = 0; run < 3; run++) expect_right(4, 6, 8, DType::bf16, DType::f32, 2, 0);
  expect_right(4, 6, 8, DType::bf16, DType::f32, 6, 0);  // what was there is added by the same algorithm
  EXPECT_EQ(record.heuristics.size(), 1u);
  expect_right(4, 6, 8, DType::bf16, DType::f32, 2, 8);
  expect_right(5, 6, 8, DType::bf16, DType::f32, 2, 0);
  expect_right(4, 6, 8, DType::f32, DType::f32, 2, 0);
  EXPECT_EQ(record.heuristics.size(), 4u);
  for (const auto& product : record.products) {
    const auto& asked = record.heuristics[size_t(product.algorithm)];
    EXPECT_EQ((std::array{asked.m, asked.n, asked.k}), (std::array{product.m, product.n, product.k}));
    EXPECT_EQ(asked.reduction_schemes, uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    EXPECT_EQ(asked.compute, CUBLAS_COMPUTE_32F);
  }
}

TEST_F(ProductsTest, alignments_are_those_of_every_row) {
  auto& record = fake_cublaslt::record();
  auto alignments = [&](int64_t gap) {
    expect_right(4, 16, 32, DType::bf16, DType::bf16, 2, gap);
    const auto& asked = record.heuristics.back();
    return std::array{asked.alignment_b, asked.alignment_a, asked.alignment_c};
  };
  EXPECT_EQ(alignments(0), (std::array{16u, 16u, 16u}));
  EXPECT_EQ(alignments(8), (std::array{16u, 16u, 16u}));
  EXPECT_EQ(alignments(4), (std::array{8u, 8u, 8u}));
  EXPECT_EQ(alignments(1), (std::array{2u, 2u, 2u}));
}

// ---- experts ---------------------------------------------------------------------------------------------

class ExpertsTest : public ProductsTest {
 protected:
  /// Refused: by all of the library, with nothing written.
  void expect_experts(Kind kind, const std::vector<int64_t>& rows, DType act, DType out, bool refused) {
    const int64_t experts = int64_t(rows.size()), n = 6, k = 10;
    std::vector<int32_t> offsets{0};
    for (int64_t r : rows) offsets.push_back(offsets.back() + int32_t(r));
    const int64_t total = offsets.back();
    const bool forward = kind == Kind::forward, gradient = kind == Kind::weight_gradient;
    Owned a(act, {total, forward ? k : n}), y(gradient ? act : out, {total, forward ? n : k}),
        w(gradient ? DType::f32 : act, {experts, n, k});
    a.uniform(1), y.uniform(2), w.uniform(3);
    GroupedGemm op{.kind = kind, .a = a, .w = w, .y = y};
    op.accumulate = true;
    op.host_offsets = offsets.data();
    std::vector<double> want;
    for (int64_t x = 0; x < experts; x++) {
      const Gemm one = cuda::expert_product(op, x, offsets[size_t(x)], offsets[size_t(x) + 1]);
      auto values = [](const Tensor& t) {
        std::vector<double> v;
        for (int64_t i = 0; i < t.rows(); i++)
          for (int64_t j = 0; j < t.columns(); j++)
            v.push_back(t.dtype == DType::f32 ? double(t.ptr<float>()[i * t.row_stride + j])
                                              : double(to_float(t.ptr<bf16>()[i * t.row_stride + j])));
        return v;
      };
      const auto part =
          reference::gemm(values(one.a), one.transpose_a, values(one.b), one.transpose_b, values(one.c),
                          one.c.rows(), one.c.columns(), one.transpose_a ? one.a.rows() : one.a.columns());
      want.insert(want.end(), part.begin(), part.end());
    }
    const Owned& written = gradient ? w : y;
    const std::vector<double> before = written.values();
    EXPECT_EQ(products->experts(*ctx, op), !refused) << int(kind);
    if (refused) {
      EXPECT_EQ(written.values(), before) << int(kind);
      return;
    }
    EXPECT_LE(relative_l2(written, want), tolerance(written->dtype)) << int(kind);
    EXPECT_TRUE(written.guards_intact());
  }
};

TEST_F(ExpertsTest, right_with_idle_experts) {
  for (Kind kind : {Kind::forward, Kind::input_gradient, Kind::weight_gradient})
    for (DType act : {DType::f32, DType::bf16})
      for (DType out : {DType::f32, DType::bf16}) {
        const bool rounds = act == DType::f32 && out == DType::bf16 && kind != Kind::weight_gradient;
        expect_experts(kind, {0, 7, 1, 0, 30}, act, out, rounds);
      }
}

TEST_F(ExpertsTest, all_experts_of_all_batches_share_one_algorithm_that_does_not_split_sums) {
  for (Kind kind : {Kind::forward, Kind::input_gradient, Kind::weight_gradient}) {
    fake_cublaslt::clear();
    products = make_products({});
    const auto& record = fake_cublaslt::record();
    expect_experts(kind, {0, 7, 1, 0, 30}, DType::bf16, DType::bf16, false);
    expect_experts(kind, {8, 8, 8, 8, 6}, DType::bf16, DType::bf16, false);
    ASSERT_EQ(record.heuristics.size(), 1u);
    EXPECT_EQ(record.heuristics[0].reduction_schemes, uint32_t(CUBLASLT_REDUCTION_SCHEME_NONE));
    EXPECT_EQ(kind == Kind::weight_gradient ? record.heuristics[0].k : record.heuristics[0].n, 8);  // 38 / 5
    EXPECT_EQ(record.products.size(), 8u);
  }
}

TEST_F(ExpertsTest, a_refused_algorithm_refuses_the_call_however_rows_are_spread) {
  const auto& record = fake_cublaslt::record();
  for (Kind kind : {Kind::forward, Kind::input_gradient, Kind::weight_gradient})
    for (const auto& [first, last] : {std::pair<int64_t, int64_t>{25, 1000}, {1, 1}}) {
      fake_cublaslt::clear();
      products = make_products({});
      fake_cublaslt::refuse_between(first, last);
      // 35 rows each time. Nobody has 25 or one in the first.
      for (const std::vector<int64_t>& rows : {std::vector<int64_t>{12, 12, 11}, {2, 30, 3}, {34, 1, 0}})
        expect_experts(kind, rows, DType::bf16, DType::bf16, true);
      EXPECT_TRUE(record.products.empty());
      EXPECT_EQ(record.heuristics.size(), 1u) << "an algorithm by an expert's own rows";
    }
}

TEST_F(ExpertsTest, an_algorithm_that_does_not_fit_one_expert_refuses_the_call_before_it_begins) {
  fake_cublaslt::refuse_between(29, 31);
  expect_experts(Kind::forward, {2, 30, 3}, DType::bf16, DType::bf16, true);
  EXPECT_TRUE(fake_cublaslt::record().products.empty());
  expect_experts(Kind::forward, {12, 12, 11}, DType::bf16, DType::bf16, false);
  EXPECT_EQ(fake_cublaslt::record().heuristics.size(), 1u);
}

// ---- environment, errors ---------------------------------------------------------------------------------

TEST_F(ProductsTest, tf32_and_multiprocessors_are_set_by_the_environment) {
  setenv("JAMBALAYA_TF32", "1", 1);
  setenv("JAMBALAYA_SM_TARGET", "120", 1);
  products = make_products({});
  unsetenv("JAMBALAYA_TF32");
  unsetenv("JAMBALAYA_SM_TARGET");
  expect_right(4, 6, 8, DType::f32, DType::f32, 0, 0);
  expect_right(4, 6, 8, DType::bf16, DType::f32, 0, 0);
  const auto& heuristics = fake_cublaslt::record().heuristics;
  EXPECT_EQ(heuristics[0].compute, CUBLAS_COMPUTE_32F_FAST_TF32);
  EXPECT_EQ(heuristics[1].compute, CUBLAS_COMPUTE_32F);
  EXPECT_EQ(heuristics[0].multiprocessors, 120);
}

TEST_F(ProductsTest, a_variable_that_is_no_number_is_refused) {
  for (const char* variable : {"JAMBALAYA_TF32", "JAMBALAYA_SM_TARGET"})
    for (const char* value : {"yes", "1x", "-1"}) {
      setenv(variable, value, 1);
      try {
        make_products({});
        ADD_FAILURE() << variable << "=" << value << " was taken";
      } catch (const Error& e) {
        EXPECT_EQ(e.exit(), Exit::usage);
        EXPECT_EQ(std::string(e.what()).find(cat(variable, "=", value, ": ")), 0u) << e.what();
      }
      unsetenv(variable);
    }
}

TEST_F(ProductsTest, a_product_without_an_algorithm_is_told_by_its_shapes) {
  fake_cublaslt::find_none();
  Owned a(DType::bf16, {3, 4}), b(DType::bf16, {4, 5}), c(DType::bf16, {3, 5});
  try {
    products->gemm(*ctx, {a, b, c});
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::failed);
    EXPECT_NE(std::string(e.what()).find("bf16[3, 4] times bf16[4, 5]"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace jambalaya::test
