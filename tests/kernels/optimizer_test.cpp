#include "tests/kernels/reference/optimizer.h"

#include "tests/support/cpu_fixture.h"

namespace jambalaya::test {
namespace {

struct State {
  Owned param, m, v, grad, compute, scale;
  explicit State(int64_t n)
      : param(DType::f32, {n}, normal(n, 1)),
        m(DType::f32, {n}, Values(size_t(n), 0)),
        v(DType::f32, {n}, Values(size_t(n), 0)),
        grad(DType::f32, {n}),
        compute(DType::bf16, {n}),
        scale(DType::f32, {2}, {1, 0}) {}
  AdamW op(int64_t step) {
    AdamW a{param, m, v, grad, compute, scale};
    a.lr = 0.01f, a.beta1 = 0.9f, a.beta2 = 0.95f, a.eps = 1e-8f, a.decay = 0.1f, a.step = step;
    return a;
  }
  void draw_gradient(uint64_t seed) {
    Values g = normal(int64_t(grad.values().size()), seed);
    for (size_t i = 0; i < g.size(); i++) write(grad, int64_t(i), g[i]);
  }
};

TEST(adamw, follows_the_float64_reference_for_twenty_steps) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    for (int64_t n : {0, 1, 15, 1000, 70000}) {
      SCOPED_TRACE(cat(isa, " n ", n));
      State s(n);
      reference::AdamW want{double(0.01f), double(0.9f),     double(0.95f), double(1e-8f),
                            double(0.1f),  s.param.values(), s.m.values(),  s.v.values()};
      Values start = want.param;
      for (int step = 1; step <= 20; step++) {
        s.draw_gradient(uint64_t(step));
        double clip = double(float(step % 3 ? 1 : 0.37));
        write(s.scale, 0, clip);
        cpu->adamw(cpu, s.op(step));
        want.update(s.grad.values(), clip);
      }
      EXPECT_LT(relative_l2(s.m.values(), want.m), 2e-6);
      EXPECT_LT(relative_l2(s.v.values(), want.v), 2e-6);
      EXPECT_LT(relative_l2(s.param.values(), want.param), 2e-6);
      Values moved = s.param.values(), should = want.param;
      for (size_t i = 0; i < start.size(); i++) moved[i] -= start[i], should[i] -= start[i];
      EXPECT_LT(relative_l2(moved, should), 1e-5)
          << "the distance moved, where an error of the decay would show";
      for (int64_t i = 0; i < n; i++)
        ASSERT_EQ(read(s.compute, i), double(to_float(to_bf16(float(read(s.param, i))))));
    }
  }
}

TEST(adamw, decay_alone_shrinks_the_parameter) {
  Backend cpu("avx2");
  State s(3);
  s.grad.fill(0);
  Values want = s.param.values();
  for (double& p : want) p -= double(0.01f) * double(0.1f) * p;
  cpu->adamw(cpu, s.op(1));
  EXPECT_LT(relative_l2(s.param.values(), want), 1e-7);
}

TEST(adamw, a_skipped_step_rewrites_only_the_compute_copy) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    State s(50001);
    s.grad.fill(NAN);
    write(s.scale, 0, NAN);
    write(s.scale, 1, 1);
    auto param = s.param.bytes(), m = s.m.bytes(), v = s.v.bytes();
    cpu->adamw(cpu, s.op(1));
    EXPECT_EQ(s.param.bytes(), param);
    EXPECT_EQ(s.m.bytes(), m);
    EXPECT_EQ(s.v.bytes(), v);
    for (int64_t i = 0; i < 50001; i++)
      ASSERT_EQ(read(s.compute, i), double(to_float(to_bf16(float(read(s.param, i))))));
    AdamW without = s.op(1);
    without.compute = Tensor{};
    cpu->adamw(cpu, without);
    EXPECT_EQ(s.param.bytes(), param);
  }
}

TEST(adamw, same_bits_for_any_number_of_threads_and_without_a_compute_copy) {
  for (const std::string& isa : isas_of_this_machine()) {
    std::vector<char> first;
    for (int threads : {1, 2, 3, -1}) {
      Backend cpu(isa, std::abs(threads));
      State s(100003);
      s.draw_gradient(5);
      AdamW op = s.op(3);
      if (threads < 0) op.compute = Tensor{};
      cpu->adamw(cpu, op);
      if (first.empty()) first = s.param.bytes();
      EXPECT_EQ(s.param.bytes(), first) << isa << " threads " << threads;
    }
  }
}

TEST(adamw, a_shard_at_any_address_is_updated_like_the_whole) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    State whole(1003), parts(1003);
    whole.draw_gradient(5), parts.draw_gradient(5);
    cpu->adamw(cpu, whole.op(3));
    for (auto [begin, end] : {std::pair{int64_t(0), int64_t(501)}, {int64_t(501), int64_t(1003)}}) {
      AdamW op = parts.op(3);
      for (Tensor* t : {&op.param, &op.m, &op.v, &op.grad, &op.compute}) *t = t->slice_rows(begin, end);
      cpu->adamw(cpu, op);
    }
    EXPECT_EQ(parts.param.bytes(), whole.param.bytes()) << isa;
    EXPECT_EQ(parts.m.bytes(), whole.m.bytes()) << isa;
    EXPECT_EQ(parts.v.bytes(), whole.v.bytes()) << isa;
    EXPECT_EQ(parts.compute.bytes(), whole.compute.bytes()) << isa;
  }
}

TEST(sum_squares, adds_to_the_sum_and_raises_the_largest) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    for (DType act : {DType::f32, DType::bf16}) {
      for (int64_t rows : {0, 1, 3, 500}) {
        for (int64_t columns : {1, 17, 40001}) {
          if (rows * columns > 200000) continue;
          for (int64_t gap : {0, 5}) {
            Owned x(act, {rows, columns}, normal(rows * columns, 1), gap), out(DType::f64, {2}, {10, 0.5});
            double sum = 0, largest = 0.5;
            for (double v : x.values()) sum += v * v, largest = std::max(largest, std::abs(v));
            cpu->sum_squares(cpu, {x, 0.25, out});
            EXPECT_NEAR(out.values()[0], 10 + 0.25 * sum, 1e-12 * (10 + sum)) << isa;
            EXPECT_EQ(out.values()[1], largest) << isa;
          }
        }
      }
    }
  }
}

TEST(sum_squares, nan_anywhere_makes_both_nan_and_infinity_stays_infinity) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    const int64_t n = 40000;
    for (int64_t place : {0, 1, 16, 39999}) {
      Values values = normal(n, 1);
      values[size_t(place)] = NAN;
      Owned x(DType::f32, {n}, values), out(DType::f64, {2}, {0, 0});
      cpu->sum_squares(cpu, {x, 1, out});
      EXPECT_TRUE(std::isnan(out.values()[0]) && std::isnan(out.values()[1])) << isa << " place " << place;
      Owned healthy(DType::f32, {4}, {1, 2, 3, 4});
      cpu->sum_squares(cpu, {healthy, 1, out});
      EXPECT_TRUE(std::isnan(out.values()[0]) && std::isnan(out.values()[1])) << "an earlier NaN stays";
      write(x, place, -INFINITY);
      write(out, 0, 0), write(out, 1, 0);
      cpu->sum_squares(cpu, {x, 1, out});
      EXPECT_EQ(out.values(), (Values{INFINITY, INFINITY})) << isa << " place " << place;
    }
  }
}

TEST(sum_squares, squares_that_fp32_could_not_hold) {
  Backend cpu("avx2");
  Owned x(DType::f32, {2}, {1e30, 1e-30}), out(DType::f64, {2}, {0, 0});
  cpu->sum_squares(cpu, {x, 1, out});
  EXPECT_NEAR(out.values()[0] / 1e60, 1, 1e-6);
}

TEST(sum_squares, same_bits_for_any_number_of_threads_and_every_instruction_set) {
  Values values = normal(300007, 2);
  std::vector<char> first;
  for (const std::string& isa : isas_of_this_machine()) {
    for (int threads : {1, 2, 3}) {
      Backend cpu(isa, threads);
      Owned x(DType::f32, {300007}, values), out(DType::f64, {2}, {0, 0});
      cpu->sum_squares(cpu, {x, 1, out});
      if (first.empty()) first = out.bytes();
      EXPECT_EQ(out.bytes(), first) << isa << " threads " << threads;
    }
  }
}

}  // namespace
}  // namespace jambalaya::test
