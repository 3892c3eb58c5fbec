// RMSNorm and the norms inside Jamba's Mamba against float64.
#include <numeric>

#include "tests/kernels/reference/norm.h"
#include "tests/support/cpu_fixture.h"

namespace jambalaya::test {
namespace {

constexpr double kEps = 1e-6;
constexpr DType kTypes[] = {DType::f32, DType::bf16};

Values sum_of(Values a, const Values& b) {
  for (size_t i = 0; i < a.size(); i++) a[i] += b[i];
  return a;
}

double reduction_tolerance(int64_t n) { return std::min(1e-5, 2e-6 * std::sqrt(double(n + 1))); }

TEST(rms_norm, reference_backward_is_the_derivative) {
  const Values x = normal(3 * 5, 1), w = normal(5, 2), dy = normal(3 * 5, 3);
  const auto g = reference::rms_norm_backward(x, w, 5, 0.1, dy);
  auto loss = [&](const Values& xs, const Values& ws) {
    const Values y = reference::rms_norm(xs, ws, 5, 0.1).y;
    return std::inner_product(y.begin(), y.end(), dy.begin(), 0.0);
  };
  expect_central_differences([&](const Values& v) { return loss(v, w); }, x, g.dx, "x");
  expect_central_differences([&](const Values& v) { return loss(x, v); }, w, g.dweight, "weight");
}

TEST(rms_norm, forward_matches_float64_in_all_dtypes) {
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    for (int64_t T : {0, 1, 70})
      for (int64_t D : {1, 16, 37, 200, 512})
        for (int i = 0; i < 12; i++) {
          const DType h_type = kTypes[i & 1], y_type = kTypes[i >> 1 & 1];
          const int branch = i >> 2;  // none, f32, bf16
          SCOPED_TRACE(cat(isa, " T ", T, " D ", D, " h ", name_of(h_type), " y ", name_of(y_type),
                           " branch ", branch));
          Owned h(h_type, {T, D}, normal(T * D, 1), 3), b(kTypes[branch == 2], {T, D}, normal(T * D, 2), 2);
          Owned w(DType::f32, {D}, normal(D, 3)), h_out(h_type, {T, D}, 1), y(y_type, {T, D}, 5),
              rstd(DType::f32, {T});
          cpu->rms_norm_forward(cpu, {.h = h,
                                      .branch = branch ? Tensor(b) : Tensor{},
                                      .weight = w,
                                      .eps = float(kEps),
                                      .h_out = branch ? Tensor(h_out) : Tensor{},
                                      .y = y,
                                      .rstd = rstd});
          Values x = h.values();
          if (branch) {
            const Values want = sum_of(x, b.values());
            EXPECT_LT(relative_l2(h_out.values(), want), tolerance(h_type, 4e-3));
            x = h_out.values();  // what was normed is the sum as stored
          }
          const auto want = reference::rms_norm(x, w.values(), D, kEps);
          EXPECT_LT(relative_l2(y.values(), want.y), tolerance(y_type, 4e-3));
          EXPECT_LT(relative_l2(rstd.values(), want.rstd), 2e-6);
          EXPECT_TRUE(y.gaps_untouched() && h_out.gaps_untouched());
        }
  }
}

TEST(rms_norm, aligned_rows_of_every_block_size) {
  // A device keeps such rows in registers, with blocks of 1 to 16 warps; 8200 is wider than any keeps.
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    for (int64_t D : {256, 264, 1032, 2056, 4104, 8192, 8200})
      for (int i = 0; i < 3; i++) {
        const DType h_type = kTypes[i > 0], type = kTypes[i > 1];
        const int64_t T = D < 300 ? 40 : 3;  // 40: several rows a block of the backward
        SCOPED_TRACE(cat(isa, " D ", D, " h ", name_of(h_type), " y ", name_of(type)));
        Owned h(h_type, {T, D}, normal(T * D, 1), 8), b(type, {T, D}, normal(T * D, 2), 16),
            w(DType::f32, {D}, normal(D, 3)), h_out(h_type, {T, D}, 8), y(type, {T, D}, 24),
            rstd(DType::f32, {T});
        cpu->rms_norm_forward(
            cpu,
            {.h = h, .branch = b, .weight = w, .eps = float(kEps), .h_out = h_out, .y = y, .rstd = rstd});
        EXPECT_LT(relative_l2(h_out.values(), sum_of(h.values(), b.values())), tolerance(h_type, 4e-3));
        const auto want = reference::rms_norm(h_out.values(), w.values(), D, kEps);
        EXPECT_LT(relative_l2(y.values(), want.y), tolerance(type, 4e-3));
        EXPECT_LT(relative_l2(rstd.values(), want.rstd), 2e-6);

        Owned dy(type, {T, D}, normal(T * D, 4), 8), dh(h_type, {T, D}, normal(T * D, 5), 16),
            dw(DType::f32, {D}, normal(D, 6));
        const Values dh_before = dh.values(), dw_before = dw.values();
        cpu->rms_norm_backward(cpu,
                               {.dy = dy, .h = h_out, .weight = w, .rstd = rstd, .dh = dh, .dweight = dw});
        const auto g = reference::rms_norm_backward(h_out.values(), w.values(), D, kEps, dy.values());
        EXPECT_LT(relative_l2(dh.values(), sum_of(dh_before, g.dx)), tolerance(h_type, 8e-3));
        EXPECT_LT(relative_l2(dw.values(), sum_of(dw_before, g.dweight)), reduction_tolerance(T));
        EXPECT_TRUE(h_out.gaps_untouched() && y.gaps_untouched() && dh.gaps_untouched());
      }
  }
}

TEST(rms_norm, sum_may_replace_the_residual_stream) {
  for (const auto& isa : isas_of_this_machine())
    for (DType type : kTypes) {
      Backend cpu(isa);
      Owned h(type, {9, 100}, normal(900, 1)), b(DType::bf16, {9, 100}, normal(900, 2)),
          w(DType::f32, {100}, normal(100, 3));
      Owned apart(type, {9, 100}), y(type, {9, 100}), y2(type, {9, 100}), rstd(DType::f32, {9});
      RmsNormForward op{.h = h, .branch = b, .weight = w, .h_out = apart, .y = y, .rstd = rstd};
      cpu->rms_norm_forward(cpu, op);
      op.h_out = h;
      op.y = y2;
      cpu->rms_norm_forward(cpu, op);
      EXPECT_EQ(h.values(), apart.values());
      EXPECT_EQ(y2.values(), y.values());
    }
}

TEST(rms_norm, backward_matches_float64_in_all_dtypes) {
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    for (int64_t T : {0, 1, 200})
      for (int64_t D : {1, 16, 37, 512})
        for (int i = 0; i < 8; i++) {
          const DType dy_type = kTypes[i & 1], h_type = kTypes[i >> 1 & 1], dh_type = kTypes[i >> 2];
          SCOPED_TRACE(cat(isa, " T ", T, " D ", D, " dy ", name_of(dy_type), " h ", name_of(h_type), " dh ",
                           name_of(dh_type)));
          Owned h(h_type, {T, D}, normal(T * D, 1), 3), dy(dy_type, {T, D}, normal(T * D, 2), 2),
              w(DType::f32, {D}, normal(D, 3));
          Owned dh(dh_type, {T, D}, normal(T * D, 4), 5), dw(DType::f32, {D}, normal(D, 5)),
              rstd(DType::f32, {T}, reference::rms_norm(h.values(), w.values(), D, kEps).rstd);
          const Values dh_before = dh.values(), dw_before = dw.values();
          cpu->rms_norm_backward(cpu, {.dy = dy, .h = h, .weight = w, .rstd = rstd, .dh = dh, .dweight = dw});
          const auto g = reference::rms_norm_backward(h.values(), w.values(), D, kEps, dy.values());
          EXPECT_LT(relative_l2(dh.values(), sum_of(dh_before, g.dx)), tolerance(dh_type, 8e-3));
          EXPECT_LT(relative_l2(dw.values(), sum_of(dw_before, g.dweight)), reduction_tolerance(T));
          EXPECT_TRUE(dh.gaps_untouched());
        }
  }
}

TEST(rms_norm, tiny_and_huge_rows) {
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    const int64_t D = 100;
    for (double scale : {0.0, 1e-12, 1e-4, 1e15}) {
      Owned h(DType::f32, {4, D}, normal(4 * D, 1, scale > 0 ? scale : 1)), w(DType::f32, {D}, normal(D, 3));
      if (scale == 0) h.fill(0);
      Owned y(DType::f32, {4, D}), rstd(DType::f32, {4});
      cpu->rms_norm_forward(cpu, {.h = h, .weight = w, .eps = float(kEps), .y = y, .rstd = rstd});
      EXPECT_LT(relative_l2(y.values(), reference::rms_norm(h.values(), w.values(), D, float(kEps)).y), 2e-6)
          << scale;
    }
  }
}

/// One case of the three norms; bit i of `normed` gives part i a weight.
struct SsmCase {
  int64_t T, R, N;
  int normed;
  DType dt_type, ddt_type;
};

void expect_ssm(Backend& cpu, const SsmCase& k) {
  const auto [T, R, N, normed, dt_type, ddt_type] = k;
  SCOPED_TRACE(cat(cpu->name(), " T ", T, " R ", R, " N ", N, " normed ", normed, " dt ", name_of(dt_type)));
  const int64_t P = R + 2 * N, width[3] = {R, N, N}, begin[3] = {0, R, R + N};
  Owned p(DType::f32, {T, P}, normal(T * P, 1), 4), w_dt(DType::f32, {R}, normal(R, 2)),
      w_b(DType::f32, {N}, normal(N, 3)), w_c(DType::f32, {N}, normal(N, 4));
  Owned dt(dt_type, {T, R}, 3), b(DType::f32, {T, N}, 3), c(DType::f32, {T, N}), rstd(DType::f32, {T, 3});
  auto given = [&, n = normed](int i, const Owned& t) { return n >> i & 1 ? Tensor(t) : Tensor{}; };
  const Tensor weights[3] = {given(0, w_dt), given(1, w_b), given(2, w_c)};
  cpu->ssm_norms_forward(cpu, {.p = p,
                               .w_dt = weights[0],
                               .w_b = weights[1],
                               .w_c = weights[2],
                               .eps = float(kEps),
                               .dt = dt,
                               .b = b,
                               .c = c,
                               .rstd = rstd});

  Owned ddt(ddt_type, {T, R}, normal(T * R, 5), 2), db(DType::f32, {T, N}, normal(T * N, 6)),
      dc(DType::f32, {T, N}, normal(T * N, 7));
  Owned dp(DType::f32, {T, P}, 1), dw_dt(DType::f32, {R}, Values(size_t(R), 1)),
      dw_b(DType::f32, {N}, Values(size_t(N), 1)), dw_c(DType::f32, {N}, Values(size_t(N), 1));
  cpu->ssm_norms_backward(cpu, {.ddt = ddt,
                                .db = db,
                                .dc = dc,
                                .p = p,
                                .w_dt = weights[0],
                                .w_b = weights[1],
                                .w_c = weights[2],
                                .rstd = rstd,
                                .dp = dp,
                                .dw_dt = given(0, dw_dt),
                                .dw_b = given(1, dw_b),
                                .dw_c = given(2, dw_c)});

  const Values ps = p.values(), dps = dp.values(), rstds = rstd.values();
  const Owned* w[3] = {&w_dt, &w_b, &w_c};
  const Owned* y[3] = {&dt, &b, &c};
  const Owned* dy[3] = {&ddt, &db, &dc};
  const Owned* dw[3] = {&dw_dt, &dw_b, &dw_c};
  for (int i = 0; i < 3; i++) {
    Values x, dx, r;
    for (int64_t t = 0; t < T; t++) {
      for (int64_t j = begin[i]; j < begin[i] + width[i]; j++)
        x.push_back(ps[size_t(t * P + j)]), dx.push_back(dps[size_t(t * P + j)]);
      r.push_back(rstds[size_t(3 * t + i)]);
    }
    const Values weight = normed >> i & 1 ? w[i]->values() : Values{};
    const auto want = reference::rms_norm(x, weight, width[i], kEps);
    const auto grad = reference::rms_norm_backward(x, weight, width[i], kEps, dy[i]->values());
    EXPECT_LT(relative_l2(y[i]->values(), want.y), i == 0 ? tolerance(dt_type, 4e-3) : 2e-6) << i;
    EXPECT_LT(relative_l2(r, want.rstd), 2e-6) << i;
    EXPECT_LT(relative_l2(dx, grad.dx), 2e-6) << i;
    const Values ones(size_t(width[i]), 1);
    EXPECT_LT(relative_l2(dw[i]->values(), weight.empty() ? ones : sum_of(ones, grad.dweight)),
              reduction_tolerance(T))
        << i;
  }
  EXPECT_TRUE(dp.gaps_untouched() && dt.gaps_untouched() && b.gaps_untouched());
}

TEST(ssm_norms, match_float64_with_and_without_weights) {
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    for (int normed = 0; normed < 8; normed++)
      for (DType dt : kTypes)
        for (DType ddt : kTypes) {
          expect_ssm(cpu, {130, 32, 16, normed, dt, ddt});
          expect_ssm(cpu, {3, 5, 3, normed, dt, ddt});
          expect_ssm(cpu, {0, 32, 16, normed, dt, ddt});
        }
  }
}

TEST(ssm_norms, a_step_rank_too_large_for_shared_memory) {
  Backend cpu(isas_of_this_machine().back(), 2);
  expect_ssm(cpu, {70, 3100, 16, 7, DType::bf16, DType::f32});
}

TEST(rms_norm, same_bits_for_any_number_of_threads) {
  const int64_t T = 700, D = 300;
  for (const auto& isa : isas_of_this_machine()) {
    Values want[4];
    for (int threads : {1, 2, 3}) {
      Backend cpu(isa, threads);
      Owned h(DType::f32, {T, D}, normal(T * D, 1)), w(DType::f32, {D}, normal(D, 3)), y(DType::bf16, {T, D}),
          rstd(DType::f32, {T});
      Owned dy(DType::bf16, {T, D}, normal(T * D, 2)), dh(DType::f32, {T, D}, normal(T * D, 4)),
          dw(DType::f32, {D}, normal(D, 5));
      cpu->rms_norm_forward(cpu, {.h = h, .weight = w, .y = y, .rstd = rstd});
      cpu->rms_norm_backward(cpu, {.dy = dy, .h = h, .weight = w, .rstd = rstd, .dh = dh, .dweight = dw});
      const Values got[4] = {y.values(), rstd.values(), dh.values(), dw.values()};
      for (int i = 0; i < 4; i++) {
        if (threads == 1) want[i] = got[i];
        EXPECT_EQ(got[i], want[i]) << threads << " threads, " << i;
      }
    }
  }
}

}  // namespace
}  // namespace jambalaya::test
