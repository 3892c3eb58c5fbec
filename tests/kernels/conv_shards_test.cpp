// The convolution on shards of a longer stream: with halos passed from shard to shard, over as many as the
// window reaches, shards equal one convolution of the whole stream, forward and every gradient.
#include "tests/kernels/conv_call.h"
#include "tests/kernels/shards.h"

namespace jambalaya::test {
namespace {

void add(Values& to, const Values& more) {
  to.resize(more.size());
  for (size_t i = 0; i < to.size(); i++) to[i] += more[i];
}

/// Forward from the first shard to the last, backward from the last to the first.
ConvOutputs run_shards(Backend& cpu, const Conv& whole, const std::vector<int64_t>& borders, DType act,
                       DType du_type, const Values& du) {
  const auto shards = cut_stream(whole.lengths, borders);
  const int64_t E = whole.E, halo = (whole.W - 1) * E;
  std::vector<Conv> streams(shards.size(), whole);
  std::vector<ConvOutputs> outs(shards.size());
  Values passed(size_t(halo), 0);
  for (size_t r = 0; r < shards.size(); r++) {
    Conv& in = streams[r];
    in.lengths = shards[r].lengths;
    in.x = part(whole.x, shards[r].begin * E, shards[r].tokens() * E);
    const bool stays = shards[r].tokens() == 0 || shards[r].continues_left();
    in.left = stays ? passed : Values(size_t(halo), 0);
    ConvCall(in, act, true).forward(cpu, outs[r]);
    passed = shards[r].tokens() == 0 || shards[r].open_end ? outs[r].tail : Values(size_t(halo), 0);
  }
  passed.assign(size_t(halo), 0);
  ConvOutputs all;
  for (size_t r = shards.size(); r-- > 0;) {
    const bool arrives = shards[r].tokens() == 0 || shards[r].open_end;
    ConvCall call(streams[r], act, true);
    call.before = 0;
    call.backward(cpu, part(du, shards[r].begin * E, shards[r].tokens() * E), du_type,
                  arrives ? passed : Values(size_t(halo), 0), outs[r]);
    passed = shards[r].tokens() == 0 || shards[r].continues_left() ? outs[r].dleft : Values(size_t(halo), 0);
    for (auto field : {&ConvOutputs::dw, &ConvOutputs::dbias}) add(all.*field, outs[r].*field);
  }
  for (const ConvOutputs& out : outs)
    for (auto field : {&ConvOutputs::u, &ConvOutputs::dx}) all.*field = joined(all.*field, out.*field);
  return all;
}

void expect_whole(Backend& cpu, const StreamCut& cut, int64_t W, DType act, DType du_type) {
  SCOPED_TRACE(cat(cpu->name(), " ", name_of(act), " W ", W, " ", cut.describe()));
  const Conv in = make_conv(21, W, cut.documents, {true, false});
  const Values du = Owned(du_type, {in.T(), in.E}, normal(in.T() * in.E, 20)).values();
  const ConvOutputs got = run_shards(cpu, in, cut.borders, act, du_type, du);
  Conv rounded = in;
  rounded.x = ConvCall(in, act).x.values();
  const auto want = reference::conv_forward(rounded);
  const auto grad = reference::conv_backward(rounded, du, {});
  EXPECT_LT(relative_l2(got.u, want.u), act == DType::f32 ? 5e-6 : 4e-3);
  EXPECT_LT(relative_l2(got.dx, grad.dx), act == DType::f32 ? 5e-6 : 8e-3);
  EXPECT_LT(relative_l2(got.dw, grad.dw), 5e-6);
  EXPECT_LT(relative_l2(got.dbias, grad.dbias), 5e-6);
}

TEST(conv_shards, halos_make_shards_equal_the_whole_stream) {
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    for (const StreamCut& cut : stream_cuts(30))
      for (int64_t W : {4, 7, 1}) {
        expect_whole(cpu, cut, W, DType::f32, DType::f32);
        expect_whole(cpu, cut, W, DType::bf16, DType::f32);
        expect_whole(cpu, cut, W, DType::bf16, DType::bf16);
      }
  }
}

TEST(conv_shards, ends_only_is_a_call_with_zeros_between) {
  const std::vector<int64_t> lengths{70, 1, 0, 129, 2};
  const int64_t E = 40, size = 3 * E, last = 4 * size;
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa, 2);
    Conv each = make_conv(E, 4, lengths), ends = each;
    Values dtail = normal(5 * size, 21);
    std::fill(each.left.begin() + size, each.left.end(), 0);
    std::fill(dtail.begin(), dtail.begin() + last, 0);
    ends.left = part(each.left, 0, size);
    const Values du = normal(each.T() * E, 20);
    ConvOutputs a, b;
    ConvCall(each, DType::f32).forward(cpu, a);
    ConvCall(each, DType::f32).backward(cpu, du, DType::f32, dtail, a);
    ConvCall(ends, DType::f32, true).forward(cpu, b);
    ConvCall(ends, DType::f32, true).backward(cpu, du, DType::f32, part(dtail, last, size), b);
    EXPECT_EQ(b.tail, part(a.tail, last, size));
    EXPECT_EQ(b.dleft, part(a.dleft, 0, size));
    for (auto field : {&ConvOutputs::u, &ConvOutputs::dx, &ConvOutputs::dw, &ConvOutputs::dbias})
      EXPECT_EQ(a.*field, b.*field);
  }
}

TEST(conv_shards, a_shard_without_tokens_passes_the_halo_on) {
  const int64_t E = 5;
  const Values halo = Owned(DType::f32, {3, E}, normal(3 * E, 30)).values();
  for (const auto& isa : isas_of_this_machine())
    for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{}, {0}, {0, 0}}) {
      Backend cpu(isa, 2);
      Conv in = make_conv(E, 4, lengths, {true, false});
      in.left = halo;
      ConvOutputs out;
      ConvCall(in, DType::f32, true).forward(cpu, out);
      ConvCall(in, DType::f32, true).backward(cpu, {}, DType::f32, halo, out);
      EXPECT_EQ(out.tail, halo);
      EXPECT_EQ(out.dleft, halo);
      EXPECT_EQ(out.dw, Values(size_t(4 * E), 1));
      ConvCall(in, DType::f32, true).backward(cpu, {}, DType::f32, {}, out);
      EXPECT_EQ(out.dleft, Values(size_t(3 * E)));
    }
}

TEST(conv_shards, empty_segments_at_the_ends_of_a_shard_hold_no_halo) {
  const int64_t E = 5;
  for (const auto& isa : isas_of_this_machine()) {
    Backend cpu(isa);
    Conv in = make_conv(E, 4, {0, 10, 0});
    in.left = normal(3 * E, 30);
    ConvOutputs out;
    ConvCall(in, DType::f32, true).forward(cpu, out);
    ConvCall(in, DType::f32, true).backward(cpu, normal(10 * E, 20), DType::f32, normal(3 * E, 21), out);
    EXPECT_EQ(out.tail, Values(size_t(3 * E)));
    EXPECT_EQ(out.dleft, Values(size_t(3 * E)));
  }
}

}  // namespace
}  // namespace jambalaya::test
