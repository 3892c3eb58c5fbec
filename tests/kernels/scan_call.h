// One call of the selective scan with all its tensors: shared by the tests of the scan and of its shards.
#pragma once
#include <utility>

#include "tests/kernels/reference/scan.h"
#include "tests/support/cpu_fixture.h"

namespace jambalaya::test {

using reference::Scan;

inline Values head(const Values& v, int64_t from, int64_t count) {
  return v.empty() ? v : Values(v.begin() + from, v.begin() + from + count);
}

struct ScanOptions {
  bool z = true, h0 = true;
};

/// Deltas of about 1e-2 to 1, A of 1 to N, as trained models have them.
inline Scan make_scan(int64_t E, int64_t N, std::vector<int64_t> lengths, ScanOptions with = {},
                      uint64_t seed = 1) {
  Scan in;
  in.E = E;
  in.N = N;
  in.lengths = std::move(lengths);
  const int64_t T = in.T();
  in.u = normal(T * E, seed);
  in.s = normal(T * E, seed + 1);
  if (with.z) in.z = normal(T * E, seed + 2);
  in.b = normal(T * N, seed + 3);
  in.c = normal(T * N, seed + 4);
  in.a_log = normal(E * N, seed + 5, 0.1);
  for (int64_t i = 0; i < E * N; i++) in.a_log[size_t(i)] += std::log(double(i % N + 1));
  in.d = normal(E, seed + 6);
  in.dt_bias = normal(E, seed + 7);
  for (double& x : in.dt_bias) x -= 3;
  if (with.h0) in.h0 = normal(in.S() * N * E, seed + 8);
  return in;
}

struct ScanOutputs {
  Values o, h_last, states, range, du, ds, dz, db, dc, da_log, dd, ddt_bias, dh0;
};

/// How the stream of a call lies in a longer one.
struct ScanShard {
  std::vector<int64_t> first_positions;
  bool open_end = false, ends_only = false;
};

/// The tensors of one call. Outputs are poisoned, gradients of parameters start at `before` (they are "+=").
struct ScanCall {
  int64_t gap = 5;  ///< between rows; 0 or 8 where kernels are to read several elements at once
  const Scan& in;
  DType act, du_type;
  ScanShard shard;
  Owned u, s, z, b, c, a_log, d, dt_bias, h0;
  DocumentsBuffer docs;
  Owned states;
  double before = 1;  ///< gradients of parameters before the call

  ScanCall(const Scan& scan, DType act_type, DType du_dtype, ScanShard part = {}, int64_t between_rows = 5)
      : gap(between_rows),
        in(scan),
        act(act_type),
        du_type(du_dtype),
        shard(std::move(part)),
        u(act, {in.T(), in.E}, in.u),
        s(act, {in.T(), in.E}, in.s),
        z(act, {in.T(), in.z.empty() ? 0 : in.E}, in.z, gap),
        b(DType::f32, {in.T(), in.N}, in.b, gap),
        c(DType::f32, {in.T(), in.N}, in.c, gap),
        a_log(DType::f32, {in.E, in.N}, in.a_log),
        d(DType::f32, {in.E}, in.d),
        dt_bias(DType::f32, {in.E}, in.dt_bias),
        h0(DType::f32, {in.h0.empty() ? 0 : entries(), in.N, in.E}, in.h0),
        docs(in.lengths, shard.first_positions, shard.open_end),
        states(DType::f32, {scan_states(in.T()), in.N, in.E}) {}

  /// Of states at starts and at ends.
  int64_t entries() const { return shard.ends_only ? 1 : in.S(); }

  template <class Op>
  void describe(Op& op) const {
    op.ends_only = shard.ends_only;
    op.u = u;
    op.s = s;
    if (!in.z.empty()) op.z = z;
    op.b = b;
    op.c = c;
    op.a_log = a_log;
    op.d = d;
    op.dt_bias = dt_bias;
    op.docs = docs.view();
    if (!in.h0.empty()) op.h0 = h0;
    op.states = states;
  }

  void forward(Backend& cpu, ScanOutputs& out) const {
    Owned o(act, {in.T(), in.E}, gap), h_last(DType::f32, {entries(), in.N, in.E}), range(DType::f32, {2});
    ScanForward op;
    describe(op);
    op.o = o;
    op.h_last = h_last;
    op.delta_range = range;
    cpu->scan_forward(cpu, op);
    EXPECT_TRUE(o.gaps_untouched());
    out.o = o.values();
    out.h_last = h_last.values();
    out.states = states.values();
    out.range = range.values();
  }

  void backward(Backend& cpu, const Values& d_out, const Values& dh_last, ScanOutputs& out) const {
    const int64_t T = in.T(), E = in.E, N = in.N, S = entries();
    Owned go(act, {T, E}, d_out, gap), gh(DType::f32, {dh_last.empty() ? 0 : S, N, E}, dh_last);
    Owned du(du_type, {T, E}), ds(act, {T, E}), dz(act, {T, in.z.empty() ? 0 : E}, gap);
    Owned db(DType::f32, {T, N}, gap), dc(DType::f32, {T, N});
    Owned da_log(DType::f32, {E, N}, Values(size_t(E * N), before));
    Owned dd(DType::f32, {E}, Values(size_t(E), before)),
        ddt_bias(DType::f32, {E}, Values(size_t(E), before)), dh0(DType::f32, {S, N, E});
    ScanBackward op;
    describe(op);
    op.d_out = go;
    if (!dh_last.empty()) op.dh_last = gh;
    op.du = du;
    op.ds = ds;
    if (!in.z.empty()) op.dz = dz;
    op.db = db;
    op.dc = dc;
    op.da_log = da_log;
    op.dd = dd;
    op.ddt_bias = ddt_bias;
    op.dh0 = dh0;
    cpu->scan_backward(cpu, op);
    EXPECT_TRUE(dz.gaps_untouched() && db.gaps_untouched());
    out.du = du.values();
    out.ds = ds.values();
    out.dz = dz.values();
    out.db = db.values();
    out.dc = dc.values();
    out.da_log = da_log.values();
    out.dd = dd.values();
    out.ddt_bias = ddt_bias.values();
    out.dh0 = dh0.values();
  }

  /// What the kernel reads: inputs rounded to the act dtype.
  Scan rounded() const {
    Scan r = in;
    r.u = u.values();
    r.s = s.values();
    r.z = z.values();
    return r;
  }
};

}  // namespace jambalaya::test
