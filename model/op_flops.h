// Floating-point operations of one call of an op, from its shapes: the rules of model/flops.h for what a rank
// really runs (its share of a layout, what is recomputed). Over a training step on one rank without recompute
// they add up to three times forward_flops. Ops that are not here count as none: norms, pointwise, routing.
#pragma once
#include "kernels/ops.h"

namespace jambalaya {

double flops_of(const Gemm& op);
double flops_of(const GroupedGemm& op);
/// All tokens, as forward_flops counts them; those without a target cost less.
double flops_of(const HeadLoss& op);
double flops_of(const ConvForward& op);
double flops_of(const ConvBackward& op);
double flops_of(const ScanForward& op);
double flops_of(const ScanBackward& op);
/// By the pairs of query and key that are visible. A backward counts as twice its forward; that it computes
/// the scores again is not counted.
double flops_of(const AttentionForward& op);
double flops_of(const AttentionBackward& op);

}  // namespace jambalaya
