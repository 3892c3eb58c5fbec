// What every backend demands of an op's tensors before it starts: shapes, dtypes and ranges as kernels/ops.h
// states them, said once, so that a wrong call gets the same message wherever it runs. Limits of one backend
// alone (experts that fit into shared memory, ids that only the host can read) stay with it. Attention's:
// attention_segments.h.
#pragma once
#include "kernels/ops.h"

namespace jambalaya {

// Each throws std::logic_error (JAMBALAYA_CHECK) that names the tensor and what it is.

// op_checks.cpp
void check_op(const Gemm& op);
void check_op(const GroupedGemm& op);
void check_op(const EmbeddingForward& op);
void check_op(const EmbeddingBackward& op);
void check_op(const HeadLoss& op);
void check_op(const RmsNormForward& op);
void check_op(const RmsNormBackward& op);
void check_op(const SsmNormsForward& op);
void check_op(const SsmNormsBackward& op);
void check_op(const Rope& op);
void check_op(const CacheAppend& op);
void check_op(const ScaleCopy& op);
void check_op(const MultiplyAdd& op);
void check_op(const AddBias& op);
void check_op(const BiasBackward& op);
void check_op(const SumSquares& op);
void check_op(const AdamW& op);

// op_checks_state_space.cpp
void check_op(const ConvForward& op);
void check_op(const ConvBackward& op);
void check_op(const ScanForward& op);
void check_op(const ScanBackward& op);
void check_op(const ScanCarryForward& op);
void check_op(const ScanCarryBackward& op);

// op_checks_experts.cpp
void check_op(const SwigluForward& op);
void check_op(const SwigluBackward& op);
void check_op(const RouterForward& op);
void check_op(const RouterBackward& op);
void check_op(const BalanceLoss& op);
void check_op(const SortByExpert& op);
void check_op(const GatherRows& op);
void check_op(const GatherRowsBackward& op);
void check_op(const CombineForward& op);
void check_op(const CombineBackward& op);

}  // namespace jambalaya
