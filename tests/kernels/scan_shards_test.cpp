// The selective scan on shards of a longer stream: carries of all shards, a small recurrence over shards, and
// scans from the states that it gives equal one scan of the whole stream, forward and every gradient.
#include <numeric>

#include "tests/kernels/scan_call.h"
#include "tests/kernels/shards.h"

namespace jambalaya::test {
namespace {

void append(Values& to, const Values& more) { to.insert(to.end(), more.begin(), more.end()); }
void add(Values& to, const Values& more) {
  to.resize(more.size());
  for (size_t i = 0; i < to.size(); i++) to[i] += more[i];
}
Values rounded_f32(Values v) {
  for (double& x : v) x = double(float(x));
  return v;
}

struct Carry {
  Values h_end, decay, dh0;
};

/// A stream, its shards, and what the ranks of a context-parallel group do with them.
struct Group {
  const Scan& whole;  // without h0
  std::vector<ShardOfStream> parts;
  std::vector<Scan> streams;
  DType act;
  Values d_out;
  int64_t gap;  ///< between rows of tensors

  Group(const Scan& scan, const std::vector<int64_t>& borders, DType type, Values d, int64_t between_rows = 5)
      : whole(scan),
        parts(cut_stream(scan.lengths, borders)),
        act(type),
        d_out(std::move(d)),
        gap(between_rows) {
    for (const ShardOfStream& shard : parts) {
      Scan in = whole;
      const int64_t t = shard.begin, n = shard.tokens();
      in.lengths = shard.lengths;
      for (auto [to, from] : {std::pair{&in.u, &whole.u}, {&in.s, &whole.s}, {&in.z, &whole.z}})
        *to = head(*from, t * in.E, n * in.E);
      for (auto [to, from] : {std::pair{&in.b, &whole.b}, {&in.c, &whole.c}})
        *to = head(*from, t * in.N, n * in.N);
      streams.push_back(in);
    }
  }

  Values zero_state() const { return Values(size_t(whole.N * whole.E)); }
  ScanShard shard(size_t r) const { return {parts[r].first_positions, parts[r].open_end, true}; }
  Values own_d_out(size_t r) const {
    return head(d_out, parts[r].begin * whole.E, parts[r].tokens() * whole.E);
  }

  Carry carry(Backend& cpu, size_t r) const {
    const ScanCall call(streams[r], act, DType::f32, shard(r), gap);
    const int64_t N = whole.N, E = whole.E;
    Owned h_end(DType::f32, {N, E}), decay(DType::f32, {N, E}), dh0(DType::f32, {N, E});
    cpu->scan_carry_forward(cpu, {.u = call.u,
                                  .s = call.s,
                                  .b = call.b,
                                  .a_log = call.a_log,
                                  .dt_bias = call.dt_bias,
                                  .docs = call.docs.view(),
                                  .h_end = h_end,
                                  .decay = decay});
    const Owned go(act, {streams[r].T(), E}, own_d_out(r), gap);
    ScanCarryBackward op{.d_out = go, .s = call.s};
    if (!streams[r].z.empty()) op.z = call.z;
    op.c = call.c;
    op.a_log = call.a_log;
    op.dt_bias = call.dt_bias;
    op.docs = call.docs.view();
    op.dh0 = dh0;
    cpu->scan_carry_backward(cpu, op);
    return {h_end.values(), decay.values(), dh0.values()};
  }

  /// The states that enter the shards from the left, and the gradients that enter them from the right, as the
  /// menu says they follow from the carries.
  void recur(const std::vector<Carry>& carries, std::vector<Values>& h_in,
             std::vector<Values>& dh_end) const {
    h_in.assign(parts.size(), zero_state());
    dh_end = h_in;
    auto step = [&](const Values& decay, const Values& state, const Values& own) {
      Values next = own;
      for (size_t i = 0; i < next.size(); i++) next[i] += decay[i] * state[i];
      return rounded_f32(next);
    };
    for (size_t r = 0; r + 1 < parts.size(); r++)
      if (!parts[r].tokens() || parts[r].open_end)
        h_in[r + 1] = step(carries[r].decay, h_in[r], carries[r].h_end);
    for (size_t r = parts.size() - 1; r > 0; r--)
      if (!parts[r].tokens() || parts[r].continues_left())
        dh_end[r - 1] = step(carries[r].decay, dh_end[r], carries[r].dh0);
  }

  /// The shards' results put together. Checks the states at their ends against the recurrence's.
  ScanOutputs run(Backend& cpu, DType du) {
    std::vector<Carry> carries;
    for (size_t r = 0; r < parts.size(); r++) carries.push_back(carry(cpu, r));
    std::vector<Values> h_in, dh_end;
    recur(carries, h_in, dh_end);
    ScanOutputs all;
    for (size_t r = 0; r < parts.size(); r++) {
      streams[r].h0 = h_in[r];
      ScanCall call(streams[r], act, du, shard(r));
      call.before = 0;
      ScanOutputs out;
      call.forward(cpu, out);
      call.backward(cpu, own_d_out(r), dh_end[r], out);
      if (r + 1 < parts.size() && parts[r].open_end) {
        EXPECT_LT(relative_l2(out.h_last, h_in[r + 1]), 1e-5) << "state after shard " << r;
      }
      if (r && parts[r].continues_left()) {
        EXPECT_LT(relative_l2(out.dh0, dh_end[r - 1]), 1e-5) << "gradient before shard " << r;
      }
      for (auto field : {&ScanOutputs::o, &ScanOutputs::du, &ScanOutputs::ds, &ScanOutputs::dz,
                         &ScanOutputs::db, &ScanOutputs::dc})
        append(all.*field, out.*field);
      for (auto field : {&ScanOutputs::da_log, &ScanOutputs::dd, &ScanOutputs::ddt_bias})
        add(all.*field, out.*field);
    }
    return all;
  }
};

void expect_whole(Backend& cpu, const StreamCut& cut, bool with_z, DType act, DType du) {
  SCOPED_TRACE(cat(cpu->name(), " ", name_of(act), " ", cut.describe()));
  const Scan in = make_scan(19, 5, cut.documents, {with_z, false});
  const ScanCall call(in, act, du);
  const Scan rounded = call.rounded();
  const Values d_out = Owned(act, {in.T(), in.E}, normal(in.T() * in.E, 20)).values();
  const ScanOutputs got = Group(in, cut.borders, act, d_out).run(cpu, du);
  const auto want = reference::scan_forward(rounded);
  const auto grad = reference::scan_backward(rounded, d_out, {});
  const double exact = 1e-5, out = act == DType::f32 ? exact : 4e-3, back = act == DType::f32 ? exact : 8e-3;
  EXPECT_LT(relative_l2(got.o, want.o), out);
  EXPECT_LT(relative_l2(got.du, grad.du), du == DType::f32 ? exact : back);
  EXPECT_LT(relative_l2(got.ds, grad.ds), back);
  EXPECT_LT(relative_l2(got.dz, grad.dz), back);
  EXPECT_LT(relative_l2(got.db, grad.db), exact);
  EXPECT_LT(relative_l2(got.dc, grad.dc), exact);
  EXPECT_LT(relative_l2(got.da_log, grad.da_log), exact);
  EXPECT_LT(relative_l2(got.dd, grad.dd), exact);
  EXPECT_LT(relative_l2(got.ddt_bias, grad.ddt_bias), exact);
}

TEST(scan_shards, carried_states_make_shards_equal_the_whole_stream) {
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    for (const StreamCut& cut : stream_cuts(30)) {
      expect_whole(cpu, cut, true, DType::f32, DType::f32);
      expect_whole(cpu, cut, false, DType::f32, DType::f32);
      expect_whole(cpu, cut, true, DType::bf16, DType::f32);
      expect_whole(cpu, cut, true, DType::bf16, DType::bf16);
    }
  }
}

TEST(scan_shards, carries_agree_with_float64) {
  struct Case {
    int64_t E, N, T, gap;
  };
  for (const auto& isa : isas_of_this_machine())
    for (auto [E, N, T, gap] : {Case{48, 16, 200, 5},
                                {37, 5, 200, 5},
                                {1, 1, 200, 5},
                                {19, 40, 200, 5},
                                {48, 16, 75, 8},
                                {24, 16, 1100, 0},
                                {5, 17, 700, 5}}) {
      Backend cpu(isa, 2);
      SCOPED_TRACE(cat(isa, " E ", E, " N ", N, " T ", T));
      const Scan in = make_scan(E, N, {T}, {true, false});
      const Values d_out = Owned(DType::f32, {T, E}, normal(T * E, 20)).values();
      const Carry got = Group(in, {}, DType::f32, d_out, gap).carry(cpu, 0);
      const auto want = reference::scan_forward(in);
      Values decay(size_t(N * E));
      for (int64_t e = 0; e < E; e++) {
        double sum = 0;
        for (int64_t t = 0; t < T; t++) sum += want.delta[size_t(t * E + e)];
        for (int64_t n = 0; n < N; n++)
          decay[size_t(n * E + e)] = std::exp(-std::exp(in.a_log[size_t(e * N + n)]) * sum);
      }
      EXPECT_LT(relative_l2(got.h_end, want.h_last), 1e-5);
      EXPECT_LT(relative_l2(got.decay, decay), 1e-5);
      EXPECT_LT(relative_l2(got.dh0, reference::scan_backward(in, d_out, {}).dh0), 1e-5);
    }
}

TEST(scan_shards, carries_have_the_bits_of_a_scan_from_zero) {
  const Scan in = make_scan(48, 16, {70, 1, 130}, {true, false});
  const Values d_out = normal(in.T() * in.E, 20);
  for (const auto& isa : isas_of_this_machine())
    for (DType act : {DType::f32, DType::bf16}) {
      Backend one(isa, 1), cpu(isa, 3);
      const Group group(in, {}, act, d_out);
      const Carry got = group.carry(cpu, 0), same = group.carry(one, 0);
      const ScanCall call(in, act, act, {{}, false, true});
      ScanOutputs out;
      call.forward(cpu, out);
      call.backward(cpu, Owned(act, {in.T(), in.E}, d_out).values(), {}, out);
      EXPECT_EQ(got.h_end, out.h_last);
      EXPECT_EQ(got.dh0, out.dh0);
      EXPECT_EQ(got.decay, Values(16 * 48)) << "a document begins inside the shard";
      EXPECT_EQ(got.h_end, same.h_end);
      EXPECT_EQ(got.dh0, same.dh0);
    }
}

TEST(scan_shards, ends_only_is_a_call_with_zero_states_between) {
  const std::vector<int64_t> lengths{70, 1, 0, 129, 64};
  const int64_t N = 16, E = 40, size = N * E, last = 4 * size;
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    Scan each = make_scan(E, N, lengths), ends = each;
    Values dh_last = normal(5 * size, 21);
    std::fill(each.h0.begin() + size, each.h0.end(), 0);
    std::fill(dh_last.begin(), dh_last.begin() + last, 0);
    ends.h0 = head(each.h0, 0, size);
    const Values d_out = normal(each.T() * E, 20);
    ScanOutputs a, b;
    const ScanCall one(each, DType::f32, DType::f32), other(ends, DType::f32, DType::f32, {{}, false, true});
    one.forward(cpu, a);
    one.backward(cpu, d_out, dh_last, a);
    other.forward(cpu, b);
    other.backward(cpu, d_out, head(dh_last, last, size), b);
    EXPECT_EQ(b.h_last, head(a.h_last, last, size));
    EXPECT_EQ(b.dh0, head(a.dh0, 0, size));
    for (auto field : {&ScanOutputs::o, &ScanOutputs::states, &ScanOutputs::range, &ScanOutputs::du,
                       &ScanOutputs::ds, &ScanOutputs::dz, &ScanOutputs::db, &ScanOutputs::dc,
                       &ScanOutputs::da_log, &ScanOutputs::dd, &ScanOutputs::ddt_bias})
      EXPECT_EQ(a.*field, b.*field);
  }
}

TEST(scan_shards, empty_segments_at_the_ends_of_a_shard_hold_no_state) {
  const int64_t N = 3, E = 5;
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    Scan in = make_scan(E, N, {0, 10, 0});
    in.h0 = normal(N * E, 30);
    const ScanCall call(in, DType::f32, DType::f32, {{}, false, true});
    ScanOutputs out;
    call.forward(cpu, out);
    call.backward(cpu, normal(10 * E, 20), normal(N * E, 21), out);
    EXPECT_EQ(out.h_last, Values(size_t(N * E)));
    EXPECT_EQ(out.dh0, Values(size_t(N * E)));
    in.h0.clear();
    Group group(in, {}, DType::f32, normal(10 * E, 20));
    group.parts[0].lengths = group.streams[0].lengths = {0, 10, 0};
    group.parts[0].first_positions.clear();
    const Carry carry = group.carry(cpu, 0);
    EXPECT_EQ(carry.h_end, Values(size_t(N * E)));
    EXPECT_EQ(carry.decay, Values(size_t(N * E)));
    EXPECT_EQ(carry.dh0, Values(size_t(N * E)));
  }
}

TEST(scan_shards, a_shard_without_tokens_passes_states_on) {
  const int64_t N = 3, E = 5;
  const Values state = Owned(DType::f32, {N, E}, normal(N * E, 30)).values();
  for (const auto& isa : isas_of_this_machine())
    for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{}, {0}, {0, 0}}) {
      Backend cpu(isa, 2);
      Scan in = make_scan(E, N, lengths, {true, false});
      const Carry carry = Group(in, {}, DType::f32, {}).carry(cpu, 0);
      EXPECT_EQ(carry.h_end, Values(size_t(N * E)));
      EXPECT_EQ(carry.decay, Values(size_t(N * E), 1));
      EXPECT_EQ(carry.dh0, Values(size_t(N * E)));
      in.h0 = state;
      const ScanCall call(in, DType::f32, DType::f32, {{}, false, true});
      ScanOutputs out;
      call.forward(cpu, out);
      call.backward(cpu, {}, state, out);
      EXPECT_EQ(out.h_last, state);
      EXPECT_EQ(out.dh0, state);
      call.backward(cpu, {}, {}, out);
      EXPECT_EQ(out.dh0, Values(size_t(N * E)));
    }
}

}  // namespace
}  // namespace jambalaya::test
