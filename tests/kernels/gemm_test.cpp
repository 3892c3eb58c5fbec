// Matrix products of every instruction set against float64 loops: shapes around every tile border, strides,
// transposes, accumulation, experts; and the packed layouts against their written description.
#include <gtest/gtest.h>

#include <array>

#include "kernels/cpu/simd/gemm.h"
#include "tests/kernels/reference/gemm.h"
#include "tests/support/op_test.h"

namespace jambalaya {
namespace isa_avx2 {
extern const GemmKernels gemm_kernels;
}
namespace isa_avx512bf16 {
extern const GemmKernels gemm_kernels;
}
namespace isa_amx {
extern const GemmKernels gemm_kernels;
}
}  // namespace jambalaya

namespace jambalaya::test {
namespace {

struct Case {
  int64_t m, n, k;
  DType in = DType::f32, out = DType::f32;
  bool ta = false, tb = false, accumulate = false;
  int64_t gap = 0;  ///< unused elements between rows

  std::string describe() const {
    return cat(m, "x", n, "x", k, " ", name_of(in), " to ", name_of(out), ta ? " ta" : "", tb ? " tb" : "",
               accumulate ? " accumulate" : "", " gap ", gap);
  }
};

struct Operands {
  Owned a, b, start;
  explicit Operands(const Case& c)
      : a(c.in, {c.ta ? c.k : c.m, c.ta ? c.m : c.k}, (c.ta ? c.m : c.k) + c.gap),
        b(c.in, {c.tb ? c.n : c.k, c.tb ? c.k : c.n}, (c.tb ? c.k : c.n) + c.gap),
        start(c.out, {c.m, c.n}, c.n + c.gap) {
    a.uniform(1);
    b.uniform(2);
    if (c.accumulate) start.uniform(3);
  }
};

Owned multiply(Context& ctx, const Case& c, const Operands& o) {
  Owned result = o.start;
  ctx.ops->gemm(ctx, {.a = o.a,
                      .b = o.b,
                      .c = result,
                      .transpose_a = c.ta,
                      .transpose_b = c.tb,
                      .accumulate = c.accumulate});
  return result;
}

double tolerance(DType out) { return out == DType::bf16 ? 4e-3 : 1e-6; }

void expect_right(const std::vector<std::unique_ptr<TestContext>>& contexts, const Case& c) {
  const Operands o(c);
  const std::vector<double> zero(size_t(c.m * c.n), 0.0);
  const auto want = reference::gemm(o.a.values(), c.ta, o.b.values(), c.tb,
                                    c.accumulate ? o.start.values() : zero, c.m, c.n, c.k);
  for (const auto& ctx : contexts) {
    const Owned got = multiply(*ctx, c, o);
    EXPECT_LE(relative_l2(got, want), tolerance(c.out)) << c.describe() << " on " << (*ctx)->name();
    EXPECT_TRUE(got.guards_intact()) << c.describe() << " on " << (*ctx)->name();
    EXPECT_EQ(ctx->scratch.in_use(), 0);
  }
}

std::vector<std::unique_ptr<TestContext>> all_contexts(int threads = 1) {
  std::vector<std::unique_ptr<TestContext>> contexts;
  for (const auto& isa : available_isas()) contexts.push_back(make_context(threads, isa));
  return contexts;
}

constexpr std::pair<DType, DType> kDTypes[] = {{DType::f32, DType::f32},
                                               {DType::f32, DType::bf16},
                                               {DType::bf16, DType::f32},
                                               {DType::bf16, DType::bf16}};

TEST(Gemm, right_for_every_transpose_dtype_and_accumulation) {
  const auto contexts = all_contexts();
  for (auto [m, n, k] : {std::array<int64_t, 3>{1, 1, 1}, {3, 70, 37}, {29, 33, 67}, {64, 48, 130}})
    for (auto [in, out] : kDTypes)
      for (int bits = 0; bits < 8; bits++)
        expect_right(contexts, {m, n, k, in, out, (bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0});
}

TEST(Gemm, right_around_every_register_tile_border) {
  const auto contexts = all_contexts();
  for (int64_t m = 1; m <= 34; m++)
    for (int64_t n : {1, 7, 8, 9, 15, 16, 17, 31, 32, 33})
      for (bool tb : {false, true}) {
        expect_right(contexts, {m, n, 19, DType::f32, DType::f32, false, tb});
        expect_right(contexts, {m, n, 21, DType::bf16, DType::bf16, m % 2 == 0, tb, m % 3 == 0});
      }
}

TEST(Gemm, strided_rows_leave_the_gaps_alone) {
  const auto contexts = all_contexts();
  for (auto [in, out] : kDTypes)
    for (int bits = 0; bits < 4; bits++)
      for (int64_t m : {5, 45})
        expect_right(contexts, {m, 35, 50, in, out, (bits & 1) != 0, (bits & 2) != 0, bits == 1, 13});
}

TEST(Gemm, sums_over_many_blocks_of_k_stay_fp32) {
  const auto contexts = all_contexts();
  for (auto [in, out] : kDTypes)
    for (bool accumulate : {false, true}) {
      expect_right(contexts, {20, 40, 1700, in, out, true, false, accumulate});
      expect_right(contexts, {20, 40, 1701, in, out, false, true, accumulate});
      expect_right(contexts, {4, 40, 1701, in, out, false, true, accumulate});
    }
  // 2048 added to 1 one at a time in bf16 would stop at 256.
  for (const auto& ctx : contexts) {
    Owned a(DType::bf16, {9, 2048}), b(DType::bf16, {2048, 3}), c(DType::bf16, {9, 3});
    a.fill(1), b.fill(1);
    (*ctx)->gemm(*ctx, {.a = a, .b = b, .c = c});
    for (double x : c.values()) EXPECT_EQ(x, 2048);
  }
}

TEST(Gemm, tiles_of_a_large_product_meet_without_seams) {
  const auto contexts = all_contexts();
  expect_right(contexts, {530, 300, 96, DType::f32, DType::f32, false, true});
  expect_right(contexts, {60, 1100, 64, DType::bf16, DType::bf16, false, false});
  expect_right(contexts, {300, 270, 800, DType::bf16, DType::f32, true, false, true});
}

TEST(Gemm, an_empty_sum_is_zero_or_what_was_there) {
  for (const auto& ctx : all_contexts())
    for (auto [in, out] : kDTypes)
      for (int64_t m : {0, 3, 40}) {
        const Case write{m, 33, 0, in, out, false, true}, add{m, 33, 0, in, out, false, true, true};
        const Operands w(write), a(add);
        for (double x : multiply(*ctx, write, w).values()) EXPECT_EQ(x, 0);
        EXPECT_EQ(multiply(*ctx, add, a).bits(), a.start.bits());
        const Case none{m, 0, 5, in, out};
        multiply(*ctx, none, Operands(none));
      }
}

TEST(Gemm, same_bits_for_any_number_of_threads) {
  for (const auto& isa : available_isas())
    for (const Case& c : {Case{300, 300, 500, DType::f32, DType::f32, false, true},
                          Case{1, 3000, 100, DType::bf16, DType::bf16, false, true},
                          Case{200, 150, 1000, DType::bf16, DType::f32, true, false, true},
                          Case{260, 300, 900, DType::bf16, DType::bf16}}) {
      const Operands o(c);
      auto one = make_context(1, isa);
      const std::string want = multiply(*one, c, o).bits();
      for (int threads : {2, 3}) {
        auto many = make_context(threads, isa);
        for (int run = 0; run < 3; run++)
          EXPECT_EQ(multiply(*many, c, o).bits(), want) << c.describe() << " " << isa;
      }
    }
}

TEST(Gemm, infinities_and_nan_reach_exactly_their_rows) {
  for (const auto& ctx : all_contexts())
    for (int64_t m : {4, 30}) {
      const Case c{m, 40, 50, DType::f32, DType::f32, false, true};
      Operands o(c);
      o.a.set(2, 7, std::numeric_limits<double>::quiet_NaN());
      const Owned got = multiply(*ctx, c, o);
      for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < 40; j++) EXPECT_EQ(std::isnan(got.get(i, j)), i == 2);
    }
}

// ---- experts ---------------------------------------------------------------------------------------------

Owned offsets_of(const std::vector<int64_t>& rows) {
  Owned offsets(DType::i32, {int64_t(rows.size()) + 1});
  int64_t sum = 0;
  for (size_t x = 0; x <= rows.size(); x++) {
    offsets.ptr<int32_t>()[x] = int32_t(sum);
    if (x < rows.size()) sum += rows[x];
  }
  return offsets;
}
std::vector<double> part(const std::vector<double>& v, int64_t begin, int64_t end) {
  return {v.begin() + begin, v.begin() + end};
}

struct Grouped {
  std::vector<int64_t> rows;
  int64_t n, k;
  DType act;
  bool accumulate;
  int64_t gap_a = 3, gap_y = 5;  ///< unused elements between rows
  DType out = act;               ///< of y where it is written
  bool tell_host = false;        ///< give host_offsets, too
};

void expect_experts_right(Context& ctx, GroupedGemm::Kind kind, const Grouped& g) {
  const Owned offsets = offsets_of(g.rows);
  const int64_t experts = int64_t(g.rows.size()), total = offsets.ptr<int32_t>()[experts];
  const bool forward = kind == GroupedGemm::Kind::forward,
             gradient = kind == GroupedGemm::Kind::weight_gradient;
  const int64_t wide_a = forward ? g.k : g.n, wide_y = forward ? g.n : g.k;
  Owned a(g.act, {total, wide_a}, wide_a + g.gap_a),
      y(gradient ? g.act : g.out, {total, wide_y}, wide_y + g.gap_y);
  Owned w(gradient ? DType::f32 : g.act, {experts, g.n, g.k});
  a.uniform(4), w.uniform(5);
  if (gradient || g.accumulate) y.uniform(6);
  const auto av = a.values(), wv = w.values(), yv = y.values();
  ctx.ops->grouped_gemm(ctx, {.kind = kind,
                              .a = a,
                              .w = w,
                              .y = y,
                              .offsets = offsets,
                              .accumulate = g.accumulate,
                              .host_offsets = g.tell_host ? offsets.ptr<int32_t>() : nullptr});
  std::vector<double> want;
  for (int64_t x = 0; x < experts; x++) {
    const int64_t r0 = offsets.ptr<int32_t>()[x], r1 = offsets.ptr<int32_t>()[x + 1], rows = r1 - r0;
    const auto ax = part(av, r0 * wide_a, r1 * wide_a), wx = part(wv, x * g.n * g.k, (x + 1) * g.n * g.k);
    auto yx = part(yv, r0 * wide_y, r1 * wide_y);
    if (!gradient && !g.accumulate) yx.assign(yx.size(), 0.0);
    const auto block = gradient  ? reference::gemm(ax, true, yx, false, wx, g.n, g.k, rows)
                       : forward ? reference::gemm(ax, false, wx, true, yx, rows, g.n, g.k)
                                 : reference::gemm(ax, false, wx, false, yx, rows, g.k, g.n);
    want.insert(want.end(), block.begin(), block.end());
  }
  const Owned& written = gradient ? w : y;
  EXPECT_LE(relative_l2(written, want), tolerance(written->dtype))
      << ctx.ops->name() << ", kind " << int(kind) << ", n " << g.n << ", k " << g.k << ", "
      << name_of(g.act);
  EXPECT_TRUE(a.guards_intact() && w.guards_intact() && y.guards_intact());
}

TEST(GroupedGemm, right_with_empty_small_and_large_experts) {
  using Kind = GroupedGemm::Kind;
  for (const auto& ctx : all_contexts(2))
    for (auto act : {DType::f32, DType::bf16})
      for (auto kind : {Kind::forward, Kind::input_gradient, Kind::weight_gradient})
        for (bool accumulate : {false, true}) {
          expect_experts_right(*ctx, kind, {{0, 3, 100, 0, 0, 1, 41, 0}, 70, 45, act, accumulate});
          expect_experts_right(*ctx, kind, {{0, 0, 0}, 8, 9, act, accumulate});
          expect_experts_right(*ctx, kind, {{0, 450, 0}, 33, 64, act, accumulate});
        }
}

TEST(GroupedGemm, right_around_every_border_of_a_tile) {
  using Kind = GroupedGemm::Kind;
  const auto ctx = make_context();
  for (auto act : {DType::f32, DType::bf16})
    for (auto kind : {Kind::forward, Kind::input_gradient, Kind::weight_gradient})
      for (int64_t gap : {0, 8, 1}) {  // 0 and 8: rows of 16-byte pieces
        expect_experts_right(*ctx, kind, {{127, 128, 1, 0, 129}, 136, 40, act, false, gap, gap});
        expect_experts_right(*ctx, kind, {{31, 33, 32}, 128, 264, act, true, gap, gap});
        expect_experts_right(*ctx, kind, {{5, 257}, 8, 16, act, false, gap, gap, DType::f32});
      }
  for (bool accumulate : {false, true})
    expect_experts_right(*ctx, Kind::forward, {{3, 70}, 24, 32, DType::f32, accumulate, 0, 0, DType::bf16});
}

TEST(GroupedGemm, many_experts_most_of_them_idle) {
  using Kind = GroupedGemm::Kind;
  const auto ctx = make_context();
  std::vector<int64_t> rows(70, 0);
  rows[0] = 2, rows[31] = 130, rows[32] = 1, rows[64] = 3, rows[69] = 129;
  for (auto act : {DType::f32, DType::bf16})
    for (auto kind : {Kind::forward, Kind::input_gradient, Kind::weight_gradient})
      expect_experts_right(*ctx, kind, {rows, 16, 24, act, false});
}

TEST(GroupedGemm, an_empty_sum_is_zero_or_what_was_there) {
  using Kind = GroupedGemm::Kind;
  const auto ctx = make_context();
  for (auto act : {DType::f32, DType::bf16})
    for (bool accumulate : {false, true}) {
      expect_experts_right(*ctx, Kind::forward, {{3, 0, 2}, 9, 0, act, accumulate});
      expect_experts_right(*ctx, Kind::input_gradient, {{3, 0, 2}, 0, 9, act, accumulate});
    }
}

TEST(GroupedGemm, large_experts_are_right_where_the_host_knows_their_rows) {
  using Kind = GroupedGemm::Kind;
  if (!on_device()) GTEST_SKIP() << "the CPU does not look at host_offsets";
  const auto ctx = make_context();
  expect_experts_right(*ctx, Kind::forward, {{0, 512}, 8192, 2, DType::bf16, true, 3, 5, DType::bf16, true});
  expect_experts_right(*ctx, Kind::input_gradient,
                       {{300, 212}, 2, 8192, DType::f32, false, 3, 5, DType::f32, true});
  expect_experts_right(*ctx, Kind::weight_gradient,
                       {{256}, 2048, 1024, DType::bf16, true, 3, 5, DType::bf16, true});
}

TEST(GroupedGemm, what_other_experts_get_does_not_change_a_row) {
  using Kind = GroupedGemm::Kind;
  const auto ctx = make_context();
  for (auto act : {DType::f32, DType::bf16}) {
    Owned a(act, {300, 72}), w(act, {3, 40, 72});
    a.uniform(1), w.uniform(2);
    auto rows_of_second = [&](const Owned& offsets) {
      Owned y(act, {300, 40});
      (*ctx)->grouped_gemm(*ctx, {.kind = Kind::forward, .a = a, .w = w, .y = y, .offsets = offsets});
      const Tensor part = y->slice_rows(100, 140);  // of the second expert in all cases
      return std::string(static_cast<const char*>(part.data), size_t(part.bytes()));
    };
    const std::string want = rows_of_second(offsets_of({100, 40, 160}));
    EXPECT_EQ(rows_of_second(offsets_of({3, 290, 7})) == want, true);
    EXPECT_EQ(rows_of_second(offsets_of({0, 300, 0})) == want, true);
    EXPECT_EQ(rows_of_second(offsets_of({99, 42, 159})) == want, true);
  }
}

TEST(GroupedGemm, same_bits_as_one_product_per_expert_for_any_number_of_threads) {
  if (on_device()) GTEST_SKIP() << "single products go to the vendor's library there";
  const std::vector<int64_t> rows{130, 0, 7, 300};
  const Owned offsets = offsets_of(rows);
  Owned a(DType::bf16, {437, 200}), w(DType::bf16, {4, 150, 200});
  a.uniform(1), w.uniform(2);
  for (const auto& isa : available_isas()) {
    Owned single(DType::bf16, {437, 150});
    auto one = make_context(1, isa);
    for (int64_t x = 0; x < 4; x++) {
      const int64_t r0 = offsets.ptr<int32_t>()[x], r1 = offsets.ptr<int32_t>()[x + 1];
      (*one)->gemm(
          *one,
          {.a = a->slice_rows(r0, r1), .b = w->at(x), .c = single->slice_rows(r0, r1), .transpose_b = true});
    }
    for (int threads : {1, 2, 3}) {
      Owned y(DType::bf16, {437, 150});
      auto ctx = make_context(threads, isa);
      (*ctx)->grouped_gemm(*ctx,
                           {.kind = GroupedGemm::Kind::forward, .a = a, .w = w, .y = y, .offsets = offsets});
      EXPECT_EQ(y.bits(), single.bits()) << isa << " " << threads;
    }
  }
}

// ---- packed layouts: what the tiles rely on, also those of AMX on machines without it
// ------------------------

/// Element (row, k) of a packed block by the description in gemm.h.
double packed_element(const GemmFormat& f, bool is_a, int elements, const std::vector<float>& packed,
                      int64_t lanes, int64_t row, int64_t k) {
  const int64_t r = is_a ? f.mr : f.nr, panel = is_a ? packed_a_panel(lanes, f.mr) : lanes * f.nr,
                lane = k / elements;
  int64_t at = row / r * panel + lane * r + row % r;
  if (is_a && f.tiled_a) at = row / r * panel + lane / 16 * 16 * r + row % r * 16 + lane % 16;
  if (elements == 1) return double(packed[size_t(at)]);
  uint32_t bits;
  std::memcpy(&bits, &packed[size_t(at)], 4);
  return double(to_float(bf16{uint16_t(k % 2 ? bits >> 16 : bits)}));
}

void expect_packed_as_described(const GemmFormat& f, DType dtype, int elements, bool is_a, bool k_contiguous,
                                int64_t rows, int64_t k) {
  Owned source(dtype, {k_contiguous ? rows : k, k_contiguous ? k : rows}, (k_contiguous ? k : rows) + 3);
  source.uniform(8);
  const int64_t lanes = (k + f.k_step - 1) / f.k_step * f.step_lanes, r = is_a ? f.mr : f.nr,
                padded = (rows + r - 1) / r * r;
  std::vector<float> packed(size_t(padded / r * (is_a ? packed_a_panel(lanes, f.mr) : lanes * f.nr)), NAN);
  (is_a ? f.pack_a
        : f.pack_b)({source->data, source->row_stride, k_contiguous, rows, k, lanes, packed.data()});
  for (int64_t i = 0; i < padded; i++)
    for (int64_t p = 0; p < lanes * elements; p++) {
      const double want = i < rows && p < k ? (k_contiguous ? source.get(i, p) : source.get(p, i)) : 0;
      ASSERT_EQ(packed_element(f, is_a, elements, packed, lanes, i, p), want)
          << "row " << i << " k " << p << (is_a ? " of A" : " of B");
    }
}

TEST(GemmPacking, layouts_are_as_described) {
  const auto isas = available_isas();
  auto check = [](const GemmFormat& f, DType dtype, int elements) {
    for (bool is_a : {false, true})
      for (bool k_contiguous : {false, true})
        for (int64_t rows : {1, 13, 14, 15, 32, 47, 64})
          for (int64_t k : {1, 16, 31, 32, 33, 70})
            expect_packed_as_described(f, dtype, elements, is_a, k_contiguous, rows, k);
  };
  check(isa_avx2::gemm_kernels.f32, DType::f32, 1);
  check(isa_avx2::gemm_kernels.bf16, DType::bf16, 1);
  if (std::find(isas.begin(), isas.end(), "avx512-bf16") == isas.end())
    GTEST_SKIP() << "no AVX-512 with bf16 here";
  check(isa_avx512bf16::gemm_kernels.f32, DType::f32, 1);
  check(isa_avx512bf16::gemm_kernels.bf16, DType::bf16, 2);
  check(isa_amx::gemm_kernels.bf16, DType::bf16, 2);
}

}  // namespace
}  // namespace jambalaya::test
