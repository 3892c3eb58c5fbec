#include "data/loader_segments.h"

#include "kernels/error.h"

namespace jambalaya {

void append_segment(const TokenSplit& split, const Piece& piece, HostBatch& batch) {
  const bool ends = piece.begin + piece.length == int64_t(split.lengths()[size_t(piece.document)]);
  const size_t at = batch.ids.size(), n = size_t(piece.length);
  batch.ids.resize(at + n + 1);  // room for the token after the piece, which is only a target
  split.read(piece.document, piece.begin, piece.length + (ends ? 0 : 1), batch.ids.data() + at);
  batch.targets.insert(batch.targets.end(), batch.ids.begin() + ptrdiff_t(at + 1),
                       batch.ids.begin() + ptrdiff_t(at + n + 1));
  if (ends) batch.targets.back() = -100;
  batch.ids.pop_back();
  batch.lengths.push_back(piece.length);
  batch.counted += piece.length - (ends ? 1 : 0);
}

void reserve(HostBatch& batch, int64_t tokens) {
  batch.ids.reserve(size_t(tokens) + 1);
  batch.targets.reserve(size_t(tokens));
}

void check_not_empty(const TokenSplit& split) {
  if (split.documents() == 0)
    throw Error(
        Exit::bad_input,
        cat("the ", split.name(),
            " split of the token store has no document; encode more text or change the held-out share"));
}

}  // namespace jambalaya
