// How pieces of documents become segments of a batch, for training and evaluation alike.
#pragma once
#include "data/batch.h"
#include "data/dataset.h"
#include "data/packing.h"

namespace jambalaya {

/// Appends one piece as a segment: ids, and the next token of the same document as target.
void append_segment(const TokenSplit& split, const Piece& piece, HostBatch& batch);
void reserve(HostBatch& batch, int64_t tokens);
/// Throws Error(bad_input) for a split without documents.
void check_not_empty(const TokenSplit& split);

}  // namespace jambalaya
