// What the kernels of the convolution share: width 4, as models have it (conv_width_4.cu), and any other
// (conv_any_width.cu). The ops are in conv.cu.
#pragma once
#include "kernels/cuda/launch.h"
#include "kernels/ops.h"

namespace jambalaya::cuda {

/// What both directions read; device pointers.
template <class A>
struct ConvStream {
  const A* x;
  int64_t x_stride;
  const float *w, *bias;  ///< [E, W], [E] or null
  const int32_t *offsets, *segment_of;
  const float* left;  ///< inputs before segments, or null: zero
  int64_t channels, width, tokens, segments;
  bool ends_only;
};
template <class A>
struct ConvGradients {
  A* dx;
  int64_t dx_stride;
  float* dleft;        ///< or null
  const float* dtail;  ///< or null: zero
};
template <class A>
ConvGradients<A> conv_gradients(const ConvBackward& op) {
  return {op.dx.ptr<A>(), op.dx.row_stride, op.dleft ? op.dleft.ptr<float>() : nullptr,
          op.dtail ? op.dtail.ptr<float>() : nullptr};
}

template <class A>
void conv_forward_width_4(const Context& ctx, const ConvForward& op, const ConvStream<A>& in);
template <class A>
void conv_forward_any_width(const Context& ctx, const ConvForward& op, const ConvStream<A>& in);
/// D is the dtype of du.
template <class A, class D>
void conv_backward_width_4(const Context& ctx, const ConvBackward& op, const ConvStream<A>& in);
template <class A, class D>
void conv_backward_any_width(const Context& ctx, const ConvBackward& op, const ConvStream<A>& in);

/// dw [E, W] and dbias [E] += sums of partial [chunks, W + 1, E] over the chunks, in their order; the last of
/// the W + 1 rows is dbias.
void sum_conv_partials(const Context& ctx, const ConvBackward& op, const float* partial, int64_t chunks);

}  // namespace jambalaya::cuda
