// The selective scan against float64, and what must hold bit by bit: documents, splits, threads.
#include <algorithm>
#include <numeric>

#include "tests/kernels/scan_call.h"

namespace jambalaya::test {
namespace {

using Options = ScanOptions;
using Outputs = ScanOutputs;
using Call = ScanCall;

/// The tokens and segments [s0, s1) of `in` as a stream of their own.
Scan part_of(const Scan& in, int64_t s0, int64_t s1) {
  const int64_t t0 = std::accumulate(in.lengths.begin(), in.lengths.begin() + s0, int64_t(0));
  Scan p = in;
  p.lengths.assign(in.lengths.begin() + s0, in.lengths.begin() + s1);
  const int64_t T = p.T();
  for (auto [to, from] : {std::pair{&p.u, &in.u}, {&p.s, &in.s}, {&p.z, &in.z}})
    *to = head(*from, t0 * in.E, T * in.E);
  for (auto [to, from] : {std::pair{&p.b, &in.b}, {&p.c, &in.c}}) *to = head(*from, t0 * in.N, T * in.N);
  p.h0 = head(in.h0, s0 * in.N * in.E, (s1 - s0) * in.N * in.E);
  return p;
}

Outputs run(Backend& cpu, const Scan& in, DType act, const Values& d_out = {}, const Values& dh_last = {},
            DType du = DType::f32) {
  Outputs out;
  Call call(in, act, du);
  call.forward(cpu, out);
  if (!d_out.empty()) call.backward(cpu, d_out, dh_last, out);
  return out;
}

Values plus_one(Values v) {
  for (double& x : v) x += 1;
  return v;
}
Values minus_one(Values v) {
  for (double& x : v) x -= 1;
  return v;
}

/// Forward and backward of one case on one instruction set, both dtypes, against float64.
void expect_reference(Backend& cpu, const Scan& in, bool with_dh_last, int64_t gap = 5) {
  const Values dh_last = with_dh_last ? normal(in.S() * in.N * in.E, 21) : Values{};
  for (auto [act, du] :
       {std::pair{DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}}) {
    SCOPED_TRACE(
        cat(cpu->name(), " ", name_of(act), " du ", name_of(du), " T ", in.T(), " E ", in.E, " N ", in.N));
    Call call(in, act, du, {}, gap);
    const Values d_out = Owned(act, {in.T(), in.E}, normal(in.T() * in.E, 20)).values();
    Outputs got;
    call.forward(cpu, got);
    call.backward(cpu, d_out, dh_last, got);
    const auto want = reference::scan_forward(call.rounded());
    const auto grad = reference::scan_backward(call.rounded(), d_out, dh_last);
    const double exact = 1e-5, out = act == DType::f32 ? exact : 4e-3,
                 back = act == DType::f32 ? exact : 8e-3;
    EXPECT_LT(relative_l2(got.o, want.o), out);
    EXPECT_LT(relative_l2(got.h_last, want.h_last), exact);
    EXPECT_LT(relative_l2(got.du, grad.du), du == DType::f32 ? exact : back);
    EXPECT_LT(relative_l2(got.ds, grad.ds), back);
    EXPECT_LT(relative_l2(got.dz, grad.dz), back);
    EXPECT_LT(relative_l2(got.db, grad.db), exact);
    EXPECT_LT(relative_l2(got.dc, grad.dc), exact);
    EXPECT_LT(relative_l2(got.da_log, plus_one(grad.da_log)), exact);
    EXPECT_LT(relative_l2(got.dd, plus_one(grad.dd)), exact);
    EXPECT_LT(relative_l2(got.ddt_bias, plus_one(grad.ddt_bias)), exact);
    EXPECT_LT(relative_l2(got.dh0, grad.dh0), exact);
    // softplus of a sum near -32 inherits the sum's rounding, 2e-6
    EXPECT_NEAR(got.range[0], *std::min_element(want.delta.begin(), want.delta.end()), 4e-6 * got.range[0]);
    EXPECT_NEAR(got.range[1], *std::max_element(want.delta.begin(), want.delta.end()), 4e-6 * got.range[1]);
  }
}

TEST(scan, reference_backward_is_the_derivative) {
  for (Options with : {Options{}, Options{false, false}}) {
    Scan in = make_scan(2, 3, {4, 0, 1, 3}, with);
    const Values d_out = normal(in.T() * in.E, 20), dh_last = normal(in.S() * in.N * in.E, 21);
    auto loss = [&](const Scan& x) {
      const auto out = reference::scan_forward(x);
      return std::inner_product(out.o.begin(), out.o.end(), d_out.begin(), 0.0) +
             std::inner_product(out.h_last.begin(), out.h_last.end(), dh_last.begin(), 0.0);
    };
    const auto g = reference::scan_backward(in, d_out, dh_last);
    auto check = [&](Values Scan::*field, const Values& gradient, const char* name) {
      expect_central_differences(
          [&](const Values& v) {
            Scan x = in;
            x.*field = v;
            return loss(x);
          },
          in.*field, gradient, name);
    };
    check(&Scan::u, g.du, "u");
    check(&Scan::s, g.ds, "s");
    check(&Scan::b, g.db, "b");
    check(&Scan::c, g.dc, "c");
    check(&Scan::a_log, g.da_log, "a_log");
    check(&Scan::d, g.dd, "d");
    check(&Scan::dt_bias, g.ddt_bias, "dt_bias");
    if (with.z) check(&Scan::z, g.dz, "z");
    if (with.h0) check(&Scan::h0, g.dh0, "h0");
  }
}

TEST(scan, matches_float64_at_any_size) {
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    expect_reference(cpu, make_scan(48, 16, {70, 1, 0, 129, 64}), true);
    expect_reference(cpu, make_scan(32, 16, {200}, {false, false}), false);
    expect_reference(cpu, make_scan(37, 5, {3, 61, 66}), true);
    expect_reference(cpu, make_scan(1, 1, {65}, {true, false}), true);
    expect_reference(cpu, make_scan(19, 40, {33}, {false, true}), false);
    expect_reference(cpu, make_scan(70, 24, {1}), true);
  }
}

/// Rows that several elements at a time can be read from, with 16 states: what models have.
TEST(scan, matches_float64_where_rows_are_aligned) {
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    expect_reference(cpu, make_scan(64, 16, {70, 1, 0, 130, 3}), true, 8);
    expect_reference(cpu, make_scan(136, 16, {67}, {false, false}), false, 0);
    expect_reference(cpu, make_scan(8, 16, {9, 64, 20}), true, 0);
  }
}

/// Documents of more than 512 tokens, which a device cuts where channels are few.
TEST(scan, long_documents_with_aligned_rows) {
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    expect_reference(cpu, make_scan(40, 16, {20, 600, 50, 540}), true, 8);
  }
}

/// Many documents or few: a device spreads a channel's states over more threads where it has few channels and
/// documents.
TEST(scan, results_do_not_depend_on_the_number_of_documents) {
  const int64_t E = 128, N = 16;
  for (int64_t count : {520, 300}) {
    const Scan in = make_scan(E, N, std::vector<int64_t>(size_t(count), 2));
    const Scan few = part_of(in, 0, 7);
    for (const auto& isa : isas_of_this_machine())
      for (DType act : {DType::f32, DType::bf16}) {
        Backend cpu(isa, 2);
        Outputs all, part;
        Call(in, act, act, {}, 0).forward(cpu, all);
        Call(few, act, act, {}, 0).forward(cpu, part);
        EXPECT_EQ(part.o, head(all.o, 0, 14 * E));
        EXPECT_EQ(part.h_last, head(all.h_last, 0, 7 * N * E));
      }
  }
}

TEST(scan, long_streams_cross_windows) {
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    expect_reference(cpu, make_scan(18, 4, {700, 500, 1, 1300}), true);
  }
}

TEST(scan, documents_of_one_token_and_empty_ones) {
  std::vector<int64_t> lengths;
  for (int i = 0; i < 150; i++) lengths.push_back(i % 3 != 1);
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    expect_reference(cpu, make_scan(33, 16, lengths), true);
    expect_reference(cpu, make_scan(33, 16, lengths, {true, false}), false);
  }
}

TEST(scan, extreme_inputs_stay_exact) {
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    Scan in = make_scan(24, 16, {90, 40});
    const double s[] = {-30, 20, 60, 19.5, 20.5, -60}, z[] = {60, -60, 0, 1e-3};
    for (size_t i = 0; i < in.s.size(); i++) {
      if (i % 5 == 0) in.s[i] = s[i / 5 % 6];
      if (i % 7 == 0) in.z[i] = z[i / 7 % 4];
    }
    for (size_t i = 0; i < in.a_log.size(); i++)
      in.a_log[i] = std::log(std::pow(10.0, double(i % 7) - 3));  // 1e-3 .. 1e3
    expect_reference(cpu, in, true);
  }
}

TEST(scan, small_deltas_are_relatively_exact) {
  Scan in = make_scan(16, 2, {64}, {false, false});
  for (double& x : in.s) x -= 25;  // delta about 1e-12
  in.d.assign(in.d.size(), 0);
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    expect_reference(cpu, in, false);
  }
}

TEST(scan, no_tokens) {
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    Scan in = make_scan(20, 16, {0, 0});
    Outputs out;
    Call call(in, DType::f32, DType::f32);
    const Values dh_last = normal(in.S() * in.N * in.E, 21);
    call.forward(cpu, out);
    call.backward(cpu, {}, dh_last, out);
    EXPECT_EQ(out.h_last, Owned(DType::f32, {2, 16, 20}, in.h0).values());
    EXPECT_EQ(out.dh0, Owned(DType::f32, {2, 16, 20}, dh_last).values());
    EXPECT_EQ(out.dd, Values(20, 1));
  }
}

TEST(scan, no_leak_across_documents) {
  const std::vector<int64_t> lengths{50, 77, 40};
  const Scan in = make_scan(40, 16, lengths, {true, false});
  Scan changed = in;
  for (int64_t t = 50; t < 127; t++) {
    for (int64_t e = 0; e < 40; e++) changed.u[size_t(t * 40 + e)] += 1, changed.s[size_t(t * 40 + e)] -= 0.5;
    for (int64_t n = 0; n < 16; n++) changed.b[size_t(t * 16 + n)] += 1, changed.c[size_t(t * 16 + n)] *= 2;
  }
  const Values d_out = normal(in.T() * 40, 20);
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    const Outputs a = run(cpu, in, DType::f32, d_out), b = run(cpu, changed, DType::f32, d_out);
    auto expect_others_same = [&](const Values& x, const Values& y, int64_t width, const char* name) {
      EXPECT_EQ(head(x, 0, 50 * width), head(y, 0, 50 * width)) << name;
      EXPECT_EQ(head(x, 127 * width, 40 * width), head(y, 127 * width, 40 * width)) << name;
      EXPECT_NE(head(x, 50 * width, 77 * width), head(y, 50 * width, 77 * width)) << name;
    };
    expect_others_same(a.o, b.o, 40, "o");
    expect_others_same(a.du, b.du, 40, "du");
    expect_others_same(a.ds, b.ds, 40, "ds");
    expect_others_same(a.dz, b.dz, 40, "dz");
    expect_others_same(a.db, b.db, 16, "db");
    expect_others_same(a.dc, b.dc, 16, "dc");
  }
}

TEST(scan, packed_documents_equal_separate_calls) {
  const Scan in = make_scan(40, 16, {64, 5, 90, 1});
  const Values d_out = normal(in.T() * 40, 20), dh_last = normal(in.S() * 16 * 40, 21);
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    const Outputs all = run(cpu, in, DType::f32, d_out, dh_last);
    Values da(size_t(40 * 16), 1);
    for (int64_t s = 0, t = 0; s < in.S(); t += in.lengths[size_t(s++)]) {
      const int64_t n = in.lengths[size_t(s)], hs = 16 * 40;
      const Outputs one =
          run(cpu, part_of(in, s, s + 1), DType::f32, head(d_out, t * 40, n * 40), head(dh_last, s * hs, hs));
      EXPECT_EQ(one.o, head(all.o, t * 40, n * 40));
      EXPECT_EQ(one.h_last, head(all.h_last, s * hs, hs));
      EXPECT_EQ(one.du, head(all.du, t * 40, n * 40));
      EXPECT_EQ(one.ds, head(all.ds, t * 40, n * 40));
      EXPECT_EQ(one.dz, head(all.dz, t * 40, n * 40));
      EXPECT_EQ(one.db, head(all.db, t * 16, n * 16));
      EXPECT_EQ(one.dc, head(all.dc, t * 16, n * 16));
      EXPECT_EQ(one.dh0, head(all.dh0, s * hs, hs));
      for (size_t i = 0; i < da.size(); i++) da[i] += one.da_log[i] - 1;
    }
    EXPECT_LT(relative_l2(all.da_log, da), 1e-6);
  }
}

TEST(scan, two_calls_equal_one) {
  const Scan whole = make_scan(40, 16, {150});
  Scan cut = whole;
  cut.lengths = {83, 67};
  const Values d_out = normal(150 * 40, 20), dh_last = normal(16 * 40, 21);
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    const Outputs all = run(cpu, whole, DType::f32, d_out, dh_last);
    cut.h0 = whole.h0;
    cut.h0.resize(2 * 16 * 40);
    const Scan first = part_of(cut, 0, 1);
    Scan second = part_of(cut, 1, 2);
    second.h0 = run(cpu, first, DType::f32).h_last;
    const Outputs b = run(cpu, second, DType::f32, head(d_out, 83 * 40, 67 * 40), dh_last);
    const Outputs a = run(cpu, first, DType::f32, head(d_out, 0, 83 * 40), b.dh0);
    auto joined = [](Values x, const Values& y) {
      x.insert(x.end(), y.begin(), y.end());
      return x;
    };
    EXPECT_EQ(joined(a.o, b.o), all.o);
    EXPECT_EQ(b.h_last, all.h_last);
    EXPECT_EQ(joined(a.du, b.du), all.du);
    EXPECT_EQ(joined(a.ds, b.ds), all.ds);
    EXPECT_EQ(joined(a.db, b.db), all.db);
    EXPECT_EQ(joined(a.dc, b.dc), all.dc);
    EXPECT_EQ(a.dh0, all.dh0);
    Values da = minus_one(a.da_log);
    for (size_t i = 0; i < da.size(); i++) da[i] += b.da_log[i];
    EXPECT_LT(relative_l2(all.da_log, da), 1e-6);
  }
}

TEST(scan, kept_states_enter_their_token) {
  // states[c] enters token 64 c: the state after 64 c tokens of the document, or the document's start state.
  const Scan in = make_scan(20, 16, {30, 98, 40});  // token 64 inside, token 128 the first of a document
  Scan before = in;
  before.lengths = {30, 34};
  before = part_of(before, 0, 2);
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    const Outputs all = run(cpu, in, DType::f32), prefix = run(cpu, before, DType::f32);
    const int64_t hs = 16 * 20;
    const Values h0 = Owned(DType::f32, {3, 16, 20}, in.h0).values();
    EXPECT_EQ(head(all.states, 0, hs), head(h0, 0, hs));
    EXPECT_EQ(head(all.states, hs, hs), head(prefix.h_last, hs, hs));
    EXPECT_EQ(head(all.states, 2 * hs, hs), head(h0, 2 * hs, hs));
  }
}

TEST(scan, last_state_may_replace_the_first) {
  const Scan in = make_scan(40, 16, {30, 0, 70, 530});
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    const Outputs apart = run(cpu, in, DType::f32);
    Call call(in, DType::f32, DType::f32);
    Owned o(DType::f32, {in.T(), 40});
    ScanForward op;
    call.describe(op);
    op.states = {};
    op.o = o;
    op.h_last = op.h0;
    cpu->scan_forward(cpu, op);
    EXPECT_EQ(o.values(), apart.o);
    EXPECT_EQ(call.h0.values(), apart.h_last);
  }
}

/// On a device the host's threads do nothing: one more call shows that it gives the same bits.
std::vector<int> thread_counts() { return on_device() ? std::vector<int>{1} : std::vector<int>{1, 2, 3}; }

TEST(scan, same_bits_for_any_number_of_threads) {
  const Scan in = make_scan(300, 16, {40, 100, 1, 200});
  const Scan narrow = make_scan(20, 3, {400, 300, 700});
  for (const Scan* scan : {&in, &narrow}) {
    const Values d_out = normal(scan->T() * scan->E, 20);
    for (const auto& isa : isas_of_this_machine()) {
      Backend one(isa, 1);
      const Outputs want = run(one, *scan, DType::bf16, d_out);
      for (int threads : thread_counts()) {
        Backend cpu(isa, threads);
        const Outputs got = run(cpu, *scan, DType::bf16, d_out);
        for (auto field : {&Outputs::o, &Outputs::h_last, &Outputs::states, &Outputs::range, &Outputs::du,
                           &Outputs::ds, &Outputs::dz, &Outputs::db, &Outputs::dc, &Outputs::da_log,
                           &Outputs::dd, &Outputs::ddt_bias, &Outputs::dh0})
          EXPECT_EQ(got.*field, want.*field) << threads << " threads";
      }
    }
  }
}

}  // namespace
}  // namespace jambalaya::test
