#include "tests/kernels/reference/pointwise.h"

#include <numeric>

#include "tests/support/cpu_fixture.h"

namespace jambalaya::test {
namespace {

constexpr DType kActs[] = {DType::f32, DType::bf16};

struct Size {
  int64_t rows, columns;
};
const Size kSizes[] = {{0, 5}, {1, 1}, {3, 7}, {1, 40000}, {129, 33}, {700, 96}, {2, 70001}};

TEST(reference, swiglu_backward_is_the_slope_of_its_forward) {
  Values x = normal(2 * 2 * 5, 1, 2), dh = normal(2 * 5, 2);
  auto loss = [&](const Values& v) {
    Values h = reference::swiglu(v, 2, 5);
    return std::inner_product(h.begin(), h.end(), dh.begin(), 0.0);
  };
  expect_central_differences(loss, x, reference::swiglu_backward(dh, x, 2, 5), "dgate_up");
}

TEST(swiglu, forward_and_backward_match_reference) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    for (DType act : kActs) {
      for (const Size& s : kSizes) {
        SCOPED_TRACE(cat(isa, " ", name_of(act), " rows ", s.rows, " F ", s.columns));
        const int64_t gap = s.columns == 96 ? 8 : 1;  // 8: rows stay aligned for wide accesses
        Owned gate_up(act, {s.rows, 2 * s.columns}, normal(s.rows * 2 * s.columns, 1, 3), 2 * gap);
        Owned h(act, {s.rows, s.columns}, gap);
        cpu->swiglu_forward(cpu, {gate_up, h});
        EXPECT_LT(relative_l2(h.values(), reference::swiglu(gate_up.values(), s.rows, s.columns)),
                  tolerance(act, 4e-3));
        Owned dh(act, {s.rows, s.columns}, normal(s.rows * s.columns, 2)),
            d(act, {s.rows, 2 * s.columns}, 3 * gap);
        cpu->swiglu_backward(cpu, {dh, gate_up, d});
        EXPECT_LT(relative_l2(d.values(),
                              reference::swiglu_backward(dh.values(), gate_up.values(), s.rows, s.columns)),
                  tolerance(act, 8e-3));
        EXPECT_TRUE(h.gaps_untouched() && d.gaps_untouched());
      }
    }
  }
}

TEST(multiply_add, is_an_affine_map_also_in_place) {
  Backend cpu("", 2);
  for (int64_t n : {int64_t(0), int64_t(1), int64_t(40007)}) {
    Owned a(DType::f32, {n}, normal(n, 1)), x(DType::f32, {n}, normal(n, 2)),
        b(DType::f32, {n}, normal(n, 3));
    const Values va = a.values(), vx = x.values(), vb = b.values();
    cpu->multiply_add(cpu, {a, x, b, x});
    const Values got = x.values();
    for (size_t i = 0; i < size_t(n); i++) EXPECT_NEAR(got[i], va[i] * vx[i] + vb[i], 1e-6);
  }
}

TEST(swiglu, huge_gates_saturate_to_the_identity_and_to_zero) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    for (DType act : kActs) {
      Owned gate_up(act, {1, 8}, {1e4, -1e4, 128, -100, 2, 2, 2, 2}), h(act, {1, 4}), d(act, {1, 8});
      Owned dh(act, {1, 4}, {1, 1, 1, 1});
      cpu->swiglu_forward(cpu, {gate_up, h});
      cpu->swiglu_backward(cpu, {dh, gate_up, d});
      const double big = gate_up.values()[0];  // 1e4, or what bf16 makes of it
      const Values want_h = {2 * big, 0, 256, 0}, want_d = {2, 0, 2, 0, big, 0, 128, 0};
      for (size_t i = 0; i < 4; i++) EXPECT_NEAR(h.values()[i], want_h[i], 1e-30 + want_h[i] * 1e-6) << isa;
      for (size_t i = 0; i < 8; i++) EXPECT_NEAR(d.values()[i], want_d[i], 1e-30 + want_d[i] * 1e-6) << isa;
    }
  }
}

TEST(swiglu, nan_and_infinite_gates_do_not_turn_into_numbers) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    for (DType act : kActs) {
      Owned gate_up(act, {1, 4}, {NAN, INFINITY, 2, 2}), h(act, {1, 2}), d(act, {1, 4}),
          dh(act, {1, 2}, {1, 1});
      cpu->swiglu_forward(cpu, {gate_up, h});
      cpu->swiglu_backward(cpu, {dh, gate_up, d});
      for (double v : h.values()) EXPECT_FALSE(std::isfinite(v)) << isa << " " << name_of(act);
      EXPECT_TRUE(std::isnan(d.values()[0]) && std::isnan(d.values()[2])) << isa << " " << name_of(act);
    }
  }
}

TEST(scale_copy, every_pair_of_dtypes_with_strides_and_accumulation) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    for (DType from : kActs) {
      for (DType to : kActs) {
        for (const Size& s : kSizes) {
          for (int64_t gap : {0, s.columns == 96 ? 8 : 3}) {
            SCOPED_TRACE(cat(isa, " ", name_of(from), " to ", name_of(to), " ", s.rows, " x ", s.columns,
                             " gap ", gap));
            Owned x(from, {s.rows, s.columns}, normal(s.rows * s.columns, 1), gap),
                y(to, {s.rows, s.columns}, 2 * gap);
            Values want = x.values();
            cpu->scale_copy(cpu, {x, y, 1, false});
            if (size_of(to) >= size_of(from)) {
              EXPECT_EQ(y.values(), want) << "alpha 1 into as wide a dtype copies exactly";
            }
            cpu->scale_copy(cpu, {x, y, -0.75f, false});
            for (double& v : want) v *= -0.75;
            EXPECT_LT(relative_l2(y.values(), want), tolerance(to, 4e-3));
            Values sum = y.values();
            cpu->scale_copy(cpu, {x, y, -0.75f, true});
            for (size_t i = 0; i < sum.size(); i++) sum[i] += want[i];
            EXPECT_LT(relative_l2(y.values(), sum), tolerance(to, 4e-3));
            EXPECT_TRUE(y.gaps_untouched());
          }
        }
      }
    }
  }
}

TEST(scale_copy, f64_is_copied_and_added_in_f64) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    for (int64_t gap : {0, 3}) {
      const Values values = normal(21, 1);
      Owned x(DType::f64, {7, 3}, values, gap), y(DType::f64, {7, 3}, 2 * gap);
      cpu->scale_copy(cpu, {x, y, 1, false});
      EXPECT_EQ(y.values(), values) << isa;
      cpu->scale_copy(cpu, {x, y, -0.75f, true});
      for (size_t i = 0; i < values.size(); i++)
        EXPECT_EQ(y.values()[i], -0.75 * values[i] + values[i]) << isa << " element " << i;
      EXPECT_TRUE(y.gaps_untouched());
    }
  }
}

TEST(scale_copy, bf16_rounds_to_nearest_even_and_keeps_nan_and_infinity) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    Values x = {1 + 1.0 / 256, 1 + 3.0 / 256, INFINITY, -INFINITY, NAN, 3.4e38, -0.0};
    for (double v : normal(1000, 3)) x.push_back(v);
    const int64_t n = int64_t(x.size());
    Owned from(DType::f32, {n}, x), to(DType::bf16, {n});
    cpu->scale_copy(cpu, {from, to, 1, false});
    const Tensor &f = from, &t = to;
    for (int64_t i = 0; i < n; i++) {
      bf16 want = to_bf16(f.ptr<float>()[i]), got = t.ptr<bf16>()[i];
      if (i == 4)
        EXPECT_TRUE(std::isnan(to_float(got))) << isa;
      else
        EXPECT_EQ(got.bits, want.bits) << isa << " element " << i;
    }
  }
}

TEST(bias, is_added_to_every_row_and_its_gradient_is_the_sum_over_rows) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    for (DType act : kActs) {
      for (const Size& s : kSizes) {
        SCOPED_TRACE(cat(isa, " ", name_of(act), " ", s.rows, " x ", s.columns));
        const int64_t gap = s.columns == 96 ? 8 : 1;  // 8: rows stay aligned for wide accesses
        for (DType b : kActs) {
          Owned x(act, {s.rows, s.columns}, normal(s.rows * s.columns, 1), 3 * gap),
              bias(b, {s.columns}, normal(s.columns, 2));
          Values want = x.values(), add = bias.values();
          for (size_t i = 0; i < want.size(); i++) want[i] += add[i % add.size()];
          cpu->add_bias(cpu, {x, bias});
          EXPECT_LT(relative_l2(x.values(), want), tolerance(act, 4e-3));
          EXPECT_TRUE(x.gaps_untouched());
        }
        Owned dy(act, {s.rows, s.columns}, normal(s.rows * s.columns, 3), gap),
            dbias(DType::f32, {s.columns}, normal(s.columns, 4));
        Values want = dbias.values(), d = dy.values();
        for (size_t i = 0; i < d.size(); i++) want[i % want.size()] += d[i];
        cpu->bias_backward(cpu, {dy, dbias});
        EXPECT_LT(relative_l2(dbias.values(), want), 2e-6);
      }
    }
  }
}

TEST(pointwise, same_bits_for_any_number_of_threads) {
  for (const std::string& isa : isas_of_this_machine()) {
    std::vector<std::vector<char>> first;
    for (int threads : {1, 2, 3, 3}) {
      Backend cpu(isa, threads);
      const int64_t rows = 3000, width = 50;
      Owned gate_up(DType::bf16, {rows, 2 * width}, normal(rows * 2 * width, 1)),
          h(DType::bf16, {rows, width});
      Owned d(DType::bf16, {rows, 2 * width}), copy(DType::f32, {rows, width}),
          dbias(DType::f32, {2 * width});
      dbias.fill(0);
      cpu->swiglu_forward(cpu, {gate_up, h});
      cpu->swiglu_backward(cpu, {h, gate_up, d});
      cpu->scale_copy(cpu, {h, copy, 0.3f, false});
      cpu->bias_backward(cpu, {gate_up, dbias});
      std::vector<std::vector<char>> bytes = {h.bytes(), d.bytes(), copy.bytes(), dbias.bytes()};
      if (first.empty()) first = bytes;
      EXPECT_EQ(bytes, first) << isa << " threads " << threads;
    }
  }
}

}  // namespace
}  // namespace jambalaya::test
