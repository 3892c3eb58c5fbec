#include "model/op_flops.h"

#include <algorithm>

namespace jambalaya {

namespace {

double product(int64_t a, int64_t b, int64_t c) { return 2 * double(a) * double(b) * double(c); }

/// Pairs of query and key that attention looks at (AttentionForward says which).
double visible_pairs(const Documents& docs, const Tensor& key_begin, const Tensor& key_count) {
  double pairs = 0;
  for (int64_t s = 0; s < docs.count; s++) {
    const int64_t n = docs.offsets[s + 1] - docs.offsets[s];
    const int64_t past = key_begin ? docs.first_position[s] : 0;
    const int64_t keys = key_count ? key_count.ptr<int64_t>()[s] : past + n;
    for (int64_t i = 0; i < n; i++) pairs += double(std::clamp<int64_t>(past + i + 1, 0, keys));
  }
  return pairs;
}

double conv_flops(const Tensor& x, const Tensor& w) { return product(x.rows(), x.columns(), w.columns()); }
double scan_flops(const Tensor& u, const Tensor& a_log) {
  return 3 * product(u.rows(), u.columns(), a_log.columns());
}

}  // namespace

double flops_of(const Gemm& op) {
  return product(op.c.rows(), op.c.columns(), op.transpose_a ? op.a.rows() : op.a.columns());
}
double flops_of(const GroupedGemm& op) { return product(op.a.rows(), op.w.shape[1], op.w.shape[2]); }
double flops_of(const HeadLoss& op) {
  return (op.dh ? 3 : 1) * product(op.h.rows(), op.h.columns(), op.w.rows());
}
double flops_of(const ConvForward& op) { return conv_flops(op.x, op.w); }
double flops_of(const ConvBackward& op) { return 2 * conv_flops(op.x, op.w); }
double flops_of(const ScanForward& op) { return scan_flops(op.u, op.a_log); }
double flops_of(const ScanBackward& op) { return 2 * scan_flops(op.u, op.a_log); }
double flops_of(const AttentionForward& op) {
  return 4 * double(op.q.columns()) * visible_pairs(op.docs, op.key_begin, op.key_count);
}
double flops_of(const AttentionBackward& op) {
  return 8 * double(op.q.columns()) * visible_pairs(op.docs, op.key_begin, op.key_count);
}

}  // namespace jambalaya
