#include <algorithm>
#include <numeric>
#include <set>

#include "tests/kernels/reference/moe.h"
#include "tests/support/cpu_fixture.h"

namespace jambalaya::test {
namespace {

constexpr DType kActs[] = {DType::f32, DType::bf16};

struct Case {
  int64_t tokens, experts, k;
  bool renormalize;
};
/// Choosing all of 256 experts takes long on an emulated device; there a few tokens are enough.
const Case kCases[] = {{0, 4, 2, false},     {1, 1, 1, false},
                       {1, 16, 2, true},     {3, 5, 5, false},
                       {7, 17, 3, true},     {130, 16, 1, false},
                       {300, 16, 2, false},  {129, 64, 8, true},
                       {400, 256, 8, false}, {on_device() ? 5 : 257, 256, 256, true},
                       {20, 32, 2, false},   {9, 100, 5, true},
                       {6, 500, 3, false},   {5, 1000, 4, true}};

/// All that the router writes, poisoned.
struct RouterTensors {
  Owned logits, probs, expert, weight, lse, stats, dlogits;
  Case c;
  RouterTensors(const Case& shape, const Values& values)
      : logits(DType::f32, {shape.tokens, shape.experts}, values),
        probs(DType::f32, {shape.tokens, shape.experts}),
        expert(DType::i32, {shape.tokens, shape.k}),
        weight(DType::f32, {shape.tokens, shape.k}),
        lse(DType::f32, {shape.tokens}),
        stats(DType::f32, {2 * shape.experts + 1}),
        dlogits(DType::f32, {shape.tokens, shape.experts}),
        c(shape) {}
  void forward(Backend& cpu) {
    cpu->router_forward(cpu, {logits, c.k, c.renormalize, probs, expert, weight, lse, stats});
  }
  void backward(Backend& cpu, const Tensor& dweight, const Tensor& dprob, float z_scale) {
    cpu->router_backward(cpu, {probs, expert, weight, lse, c.renormalize, dweight, dprob, z_scale, dlogits});
  }
};

Values as_values(const std::vector<int>& v) { return Values(v.begin(), v.end()); }
Values part(const Values& v, size_t begin, size_t end) {
  return Values(v.begin() + long(begin), v.begin() + long(end));
}

TEST(reference, router_backward_is_the_slope_of_its_forward) {
  for (const Case& c :
       {Case{3, 5, 2, false}, Case{3, 5, 2, true}, Case{2, 4, 1, false}, Case{2, 3, 3, true}}) {
    Values logits = normal(c.tokens * c.experts, 1), dweight = normal(c.tokens * c.k, 2),
           dprob = normal(c.experts, 3);
    reference::Router r{c.tokens, c.experts, c.k, c.renormalize};
    auto loss = [&](const Values& l) {
      r.forward(l);
      double sum = 0;
      for (size_t i = 0; i < dweight.size(); i++) sum += dweight[i] * r.weight[i];
      for (size_t i = 0; i < r.probs.size(); i++) sum += dprob[i % dprob.size()] * r.probs[i];
      for (double z : r.lse) sum += 0.3 * z * z;
      return sum;
    };
    r.forward(logits);
    expect_central_differences(loss, logits, r.backward(dweight, dprob, 0.3), "dlogits");
  }
}

TEST(reference, combine_backward_is_the_slope_of_its_forward) {
  const int64_t tokens = 3, k = 2, width = 4;
  Values x = normal(tokens * k * width, 1), weight = normal(tokens * k, 2), dy = normal(tokens * width, 3);
  Values row_of = {4, 0, 2, 5, 1, 3};
  auto inner = [&](const Values& y) { return std::inner_product(y.begin(), y.end(), dy.begin(), 0.0); };
  auto g = reference::combine_backward(dy, x, row_of, weight, tokens, k, width);
  expect_central_differences(
      [&](const Values& v) { return inner(reference::combine(v, row_of, weight, tokens, k, width)); }, x,
      g.dx, "dx");
  expect_central_differences(
      [&](const Values& v) { return inner(reference::combine(x, row_of, v, tokens, k, width)); }, weight,
      g.dweight, "dweight");
}

TEST(router, forward_matches_reference) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    for (const Case& c : kCases) {
      SCOPED_TRACE(cat(isa, " T ", c.tokens, " X ", c.experts, " K ", c.k));
      RouterTensors r(c, normal(c.tokens * c.experts, 11, 2));
      reference::Router want{c.tokens, c.experts, c.k, c.renormalize};
      want.forward(r.logits.values());
      r.forward(cpu);
      EXPECT_EQ(r.expert.values(), as_values(want.expert));
      EXPECT_LT(relative_l2(r.probs.values(), want.probs), 2e-6);
      EXPECT_LT(relative_l2(r.weight.values(), want.weight), 2e-6);
      EXPECT_LT(relative_l2(r.lse.values(), want.lse), 2e-6);
      const size_t x = size_t(c.experts);
      EXPECT_EQ(part(r.stats.values(), 0, x), part(want.stats, 0, x)) << "counts are exact";
      EXPECT_LT(relative_l2(part(r.stats.values(), x, 2 * x), part(want.stats, x, 2 * x)), 2e-6);
      EXPECT_LT(relative_l2({r.stats.values().back()}, {want.stats.back()}), 2e-6);
    }
  }
}

TEST(router, backward_matches_reference) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    for (const Case& c : kCases) {
      SCOPED_TRACE(cat(isa, " T ", c.tokens, " X ", c.experts, " K ", c.k));
      RouterTensors r(c, normal(c.tokens * c.experts, 12, 2));
      Owned dweight(DType::f32, {c.tokens, c.k}, normal(c.tokens * c.k, 13));
      Owned dprob(DType::f32, {c.experts}, normal(c.experts, 14, 0.1));
      reference::Router want{c.tokens, c.experts, c.k, c.renormalize};
      want.forward(r.logits.values());
      r.forward(cpu);
      r.backward(cpu, dweight, dprob, 0.01f);
      Values dlogits = want.backward(dweight.values(), dprob.values(), double(0.01f));
      // One expert, renormalised or all chosen: the gradient through the choice cancels to rounding.
      EXPECT_LT(relative_l2(r.dlogits.values(), dlogits), 4e-6);
      r.dlogits.fill(NAN);
      r.backward(cpu, dweight, Tensor{}, 0);
      dlogits = want.backward(dweight.values(), Values(size_t(c.experts), 0), 0);
      EXPECT_LT(relative_l2(r.dlogits.values(), dlogits), 4e-6) << "without balance loss and z-loss";
    }
  }
}

TEST(router, equal_logits_choose_the_lowest_indices) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    for (int64_t experts : {3, 16, 40}) {
      RouterTensors r({2, experts, 3, false}, Values(size_t(2 * experts), 0.5));
      r.forward(cpu);
      EXPECT_EQ(r.expert.values(), (Values{0, 1, 2, 0, 1, 2})) << isa;
      for (double p : r.probs.values()) EXPECT_NEAR(p, 1.0 / double(experts), 1e-7);
    }
  }
}

TEST(router, huge_logits_saturate_without_nan) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    const Values logits = {1e4, -1e4, -1e4, 1e4, 0, -1e4, -1e4, -1e4, -1e4, -1e4};
    RouterTensors r({2, 5, 3, true}, logits);
    r.forward(cpu);
    EXPECT_EQ(r.expert.values(), (Values{0, 3, 4, 0, 1, 2})) << isa;
    EXPECT_EQ(part(r.weight.values(), 0, 3), (Values{0.5, 0.5, 0}));
    for (double p : part(r.probs.values(), 5, 10)) EXPECT_NEAR(p, 0.2, 1e-7);
    EXPECT_NEAR(r.lse.values()[0], 1e4 + std::log(2.0), 1e-3);
    EXPECT_NEAR(r.lse.values()[1], -1e4 + std::log(5.0), 1e-3);
    Owned dweight(DType::f32, {2, 3}, normal(6, 1));
    r.backward(cpu, dweight, Tensor{}, 0);
    for (double d : r.dlogits.values()) EXPECT_TRUE(std::isfinite(d)) << isa;
  }
}

TEST(router, nan_and_infinite_logits_keep_the_choice_in_range_and_show_in_probs) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    const double inf = INFINITY;
    const Case c{5, 17, 4, true};
    Values logits = normal(c.tokens * c.experts, 5);
    for (int64_t x = 0; x < c.experts; x++) {
      logits[size_t(x)] = NAN;
      logits[size_t(17 + x)] = -inf;
      logits[size_t(34 + x)] = inf;
    }
    logits[size_t(51 + 3)] = NAN;
    RouterTensors r(c, logits);
    r.forward(cpu);
    Values expert = r.expert.values(), probs = r.probs.values();
    for (int64_t t = 0; t < c.tokens; t++) {
      std::set<double> distinct(expert.begin() + t * c.k, expert.begin() + (t + 1) * c.k);
      EXPECT_EQ(distinct.size(), size_t(c.k)) << isa << " token " << t;
      EXPECT_GE(*distinct.begin(), 0);
      EXPECT_LT(*distinct.rbegin(), double(c.experts));
      if (t < 3) {
        EXPECT_EQ(distinct, (std::set<double>{0, 1, 2, 3})) << "the lower index";
      }
      EXPECT_EQ(std::isnan(probs[size_t(t * c.experts)]), t < 4) << isa << " token " << t;
    }
    EXPECT_EQ(std::count(expert.begin() + 12, expert.begin() + 16, 3), 0) << "NaN is chosen last";
    EXPECT_TRUE(std::isnan(r.stats.values().back()));
  }
}

TEST(router, top_one_gradient_reaches_every_logit_unless_renormalised) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    for (bool renormalize : {false, true}) {
      RouterTensors r({4, 8, 1, renormalize}, normal(32, 3));
      Owned dweight(DType::f32, {4, 1}, {1, -2, 0.5, 3});
      r.forward(cpu);
      r.backward(cpu, dweight, Tensor{}, 0);
      for (double d : r.dlogits.values()) EXPECT_EQ(std::abs(d) > 1e-5, !renormalize) << isa;
    }
  }
}

TEST(router, same_bits_for_any_number_of_threads) {
  for (const std::string& isa : isas_of_this_machine()) {
    const Case c{1000, 20, 3, true};
    std::vector<std::vector<char>> first;
    for (int threads : {1, 2, 3, 3}) {
      Backend cpu(isa, threads);
      RouterTensors r(c, normal(c.tokens * c.experts, 21));
      Owned dweight(DType::f32, {c.tokens, c.k}, normal(c.tokens * c.k, 22));
      r.forward(cpu);
      r.backward(cpu, dweight, Tensor{}, 0.1f);
      std::vector<std::vector<char>> bytes = {r.probs.bytes(), r.stats.bytes(), r.weight.bytes(),
                                              r.dlogits.bytes()};
      if (first.empty()) first = bytes;
      EXPECT_EQ(bytes, first) << isa << " threads " << threads;
    }
  }
}

/// The balance loss by its definition (kernels/ops.h), of stats [L, 2X + 1].
double balance_of(const Values& stats, int64_t layers, int64_t experts, double tokens, bool per_layer) {
  const double l = double(layers), x = double(experts);
  auto f = [&](int64_t i, int64_t e) { return stats[size_t(i * (2 * experts + 1) + e)] / tokens; };
  auto p = [&](int64_t i, int64_t e) { return stats[size_t(i * (2 * experts + 1) + experts + e)] / tokens; };
  double loss = 0;
  for (int64_t e = 0; e < experts; e++) {
    double product = 0, mean_f = 0, mean_p = 0;
    for (int64_t i = 0; i < layers; i++) {
      product += f(i, e) * p(i, e) / l;
      mean_f += f(i, e) / l, mean_p += p(i, e) / l;
    }
    loss += x * (per_layer ? product : mean_f * mean_p);
  }
  return loss;
}

TEST(balance_loss, is_its_definition_and_dprob_its_slope) {
  const double tokens = 50, factor = 0.5, weight = 0.01;
  for (const std::string& isa : isas_of_this_machine())
    for (bool per_layer : {false, true})
      for (auto [layers, experts] : {std::pair<int64_t, int64_t>{1, 1}, {3, 4}, {5, 300}}) {
        SCOPED_TRACE(cat(isa, " L ", layers, " X ", experts, per_layer ? " per layer" : ""));
        const int64_t columns = 2 * experts + 1;
        Values drawn = normal(layers * columns, 4);
        for (double& v : drawn) v = std::abs(v) * 10;
        Owned stats(DType::f32, {layers, columns}, drawn, 3), dprob(DType::f32, {layers, experts}, 2),
            sums(DType::f64, {2}, {1, 2});
        Backend cpu(isa);
        cpu->balance_loss(cpu, {stats, tokens, per_layer, factor, weight, dprob, sums});
        const Values values = stats.values();
        EXPECT_NEAR(sums.values()[0], 1 + factor * balance_of(values, layers, experts, tokens, per_layer),
                    1e-9);
        double z = 0;
        for (int64_t i = 0; i < layers; i++) z += values[size_t((i + 1) * columns - 1)];
        EXPECT_NEAR(sums.values()[1], 2 + z / tokens / double(layers), 1e-9);
        Values slopes;
        for (int64_t i = 0; i < layers; i++)
          for (int64_t e = 0; e < experts; e++) {
            Values up = values, down = values;  // the loss is linear in P: any step is exact
            up[size_t(i * columns + experts + e)] += 1;
            down[size_t(i * columns + experts + e)] -= 1;
            slopes.push_back(weight * factor / 2 *
                             (balance_of(up, layers, experts, tokens, per_layer) -
                              balance_of(down, layers, experts, tokens, per_layer)));
          }
        EXPECT_LT(relative_l2(dprob.values(), slopes), 1e-6);
        EXPECT_TRUE(dprob.gaps_untouched());
      }
}

/// Expects the sort of these choices to be std::stable_sort's, for several thread counts.
void expect_stable_sort(const Values& choices, int64_t tokens, int64_t k, int64_t experts) {
  std::vector<int64_t> order(choices.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return choices[size_t(a)] < choices[size_t(b)]; });
  Values row_of(choices.size()), token_of(choices.size()), offsets(size_t(experts + 1), 0);
  for (size_t r = 0; r < order.size(); r++) {
    row_of[size_t(order[r])] = double(r);
    const int64_t token = order[r] / k;
    token_of[r] = double(token);
  }
  for (int64_t x = 0; x <= experts; x++) {
    for (double c : choices) offsets[size_t(x)] += c < double(x);
  }
  for (int threads : on_device() ? std::vector<int>{1} : std::vector<int>{1, 2, 3}) {
    Backend cpu("avx2", threads);
    Owned expert(DType::i32, {tokens, k}, choices), rows(DType::i32, {tokens, k}),
        offset(DType::i32, {experts + 1}), tokens_of(DType::i32, {tokens * k});
    cpu->sort_by_expert(cpu, {expert, experts, offset, rows, tokens_of});
    EXPECT_EQ(offset.values(), offsets);
    EXPECT_EQ(rows.values(), row_of);
    EXPECT_EQ(tokens_of.values(), token_of);
  }
}

TEST(sort_by_expert, is_the_stable_sort) {
  for (int64_t experts : {1, 2, 16, 256}) {
    for (int64_t tokens : {0, 1, 5, 1024, 3000}) {
      SCOPED_TRACE(cat("X ", experts, " T ", tokens));
      std::mt19937 draw(7);
      Values choices(size_t(tokens * 2));
      for (double& c : choices) c = double(draw() % unsigned(experts));
      expect_stable_sort(choices, tokens, 2, experts);
    }
  }
}

TEST(sort_by_expert, is_the_stable_sort_of_many_tokens_and_experts) {
  std::mt19937 draw(8);
  Values few(36000), many(3000);
  for (double& c : few) c = double(draw() % 3);
  for (double& c : many) c = double(draw() % 600);
  expect_stable_sort(few, 18000, 2, 3);
  expect_stable_sort(many, 1000, 3, 600);
}

TEST(sort_by_expert, empty_experts_and_one_that_takes_all) {
  expect_stable_sort(Values(2500, 3), 2500, 1, 8);
  expect_stable_sort(Values(2500, 0), 1250, 2, 4);
  expect_stable_sort({7, 0, 7, 0, 7, 0}, 2, 3, 9);
}

TEST(sort_by_expert, an_expert_out_of_range_is_refused) {
  Backend cpu("avx2");
  for (double wrong : {-1.0, 4.0}) {
    Owned expert(DType::i32, {2, 2}, {0, 1, wrong, 3}), rows(DType::i32, {2, 2}), offsets(DType::i32, {5}),
        token_of(DType::i32, {4});
    const SortByExpert op{expert, 4, offsets, rows, token_of};
    if (on_device())  // it cannot tell the host, so it stops
      EXPECT_DEATH(cpu->sort_by_expert(cpu, op), "sort_count");
    else
      EXPECT_ANY_THROW(cpu->sort_by_expert(cpu, op));
  }
}

/// Row numbers of a sort of random choices: a permutation of T*K.
Values permutation(int64_t n) {
  Values rows(static_cast<size_t>(n));
  std::iota(rows.begin(), rows.end(), 0);
  std::shuffle(rows.begin(), rows.end(), std::mt19937(9));
  return rows;
}

struct Move {
  int64_t tokens, k, width;
  bool gaps = true;  ///< between rows; without them, rows of whole 16-byte pieces
};
const Move kMoves[] = {{0, 2, 8},   {1, 1, 1},  {5, 2, 7},        {33, 3, 16},        {9, 2, 130},
                       {40, 1, 64}, {6, 4, 33}, {5, 2, 7, false}, {11, 3, 24, false}, {10, 2, 520, false}};

TEST(rows, gather_copies_bits_and_its_backward_sums_over_choices) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    for (DType act : kActs) {
      for (const Move& m : kMoves) {
        SCOPED_TRACE(cat(isa, " ", name_of(act), " T ", m.tokens, " K ", m.k, " D ", m.width));
        const int64_t rows = m.tokens * m.k;
        Owned row_of(DType::i32, {m.tokens, m.k}, permutation(rows)), token_of(DType::i32, {rows});
        for (int64_t i = 0; i < rows; i++) {
          const int64_t token = i / m.k;
          write(token_of, int64_t(row_of.values()[size_t(i)]), double(token));
        }
        Owned x(act, {m.tokens, m.width}, normal(m.tokens * m.width, 1), m.gaps * 5),
            y(act, {rows, m.width}, m.gaps * 3);
        cpu->gather_rows(cpu, {x, token_of, y});
        Values from = x.values(), to = y.values(), tokens = token_of.values();
        for (int64_t i = 0; i < rows * m.width; i++) {
          ASSERT_EQ(to[size_t(i)],
                    from[size_t(int64_t(tokens[size_t(i / m.width)]) * m.width + i % m.width)]);
        }
        EXPECT_TRUE(y.gaps_untouched());

        Owned dy(act, {rows, m.width}, normal(rows * m.width, 2), m.gaps * 1);
        Values want =
            reference::combine(dy.values(), row_of.values(), Values(size_t(rows), 1), m.tokens, m.k, m.width);
        for (DType out : kActs) {
          Owned dx(out, {m.tokens, m.width}, m.gaps * 2);
          cpu->gather_rows_backward(cpu, {dy, row_of, dx, false});
          EXPECT_LT(relative_l2(dx.values(), want), tolerance(out, 8e-3));
          Owned sum(out, {m.tokens, m.width}, normal(m.tokens * m.width, 4));
          Values both = sum.values();
          for (size_t i = 0; i < both.size(); i++) both[i] += want[i];
          cpu->gather_rows_backward(cpu, {dy, row_of, sum, true});
          EXPECT_LT(relative_l2(sum.values(), both), tolerance(out, 8e-3)) << "accumulate";
          EXPECT_TRUE(dx.gaps_untouched());
        }
      }
    }
  }
}

TEST(rows, combine_matches_reference) {
  for (const std::string& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    for (DType act : kActs) {
      for (const Move& m : kMoves) {
        SCOPED_TRACE(cat(isa, " ", name_of(act), " T ", m.tokens, " K ", m.k, " D ", m.width));
        const int64_t rows = m.tokens * m.k;
        Owned row_of(DType::i32, {m.tokens, m.k}, permutation(rows));
        Owned x(act, {rows, m.width}, normal(rows * m.width, 1), m.gaps * 4),
            weight(DType::f32, {m.tokens, m.k}, normal(rows, 2));
        Owned y(act, {m.tokens, m.width}, m.gaps * 3);
        cpu->combine_forward(cpu, {x, row_of, weight, y});
        Values want =
            reference::combine(x.values(), row_of.values(), weight.values(), m.tokens, m.k, m.width);
        EXPECT_LT(relative_l2(y.values(), want), tolerance(act, 4e-3));
        EXPECT_TRUE(y.gaps_untouched());
        for (DType upstream : kActs) {
          Owned dy(upstream, {m.tokens, m.width}, normal(m.tokens * m.width, 3), m.gaps * 2),
              dx(act, {rows, m.width}, m.gaps * 1);
          Owned dweight(DType::f32, {m.tokens, m.k});
          cpu->combine_backward(cpu, {dy, x, row_of, weight, dx, dweight});
          auto g = reference::combine_backward(dy.values(), x.values(), row_of.values(), weight.values(),
                                               m.tokens, m.k, m.width);
          EXPECT_LT(relative_l2(dx.values(), g.dx), tolerance(act, 8e-3));
          EXPECT_LT(relative_l2(dweight.values(), g.dweight), 2e-6 * std::sqrt(double(m.width)));
          EXPECT_TRUE(dx.gaps_untouched());
        }
      }
    }
  }
}

}  // namespace
}  // namespace jambalaya::test
