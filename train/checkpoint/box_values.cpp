#include "train/checkpoint/box_values.h"

#include <algorithm>

namespace jambalaya {

namespace {
int64_t product(const std::vector<int64_t>& factors, size_t first = 0) {
  int64_t n = 1;
  for (size_t i = first; i < factors.size(); i++) n *= factors[i];
  return n;
}
}  // namespace

int64_t BoxPiece::elements() const { return product(count); }

std::vector<BoxPiece> pieces_of_box(const std::vector<int64_t>& shape, int64_t limit) {
  std::vector<BoxPiece> pieces;
  if (product(shape) == 0) return pieces;
  size_t cut = 0;  // the dimension that is cut: what lies within one of its rows fits
  while (cut + 1 < shape.size() && product(shape, cut + 1) > limit) cut++;
  const int64_t rows = std::max<int64_t>(1, limit / product(shape, cut + 1));
  std::vector<int64_t> from(shape.size(), 0);
  while (true) {
    BoxPiece piece{from, shape};
    for (size_t d = 0; d < cut; d++) piece.count[d] = 1;
    piece.count[cut] = std::min(rows, shape[cut] - from[cut]);
    pieces.push_back(piece);
    from[cut] += piece.count[cut];
    for (size_t d = cut; from[d] == shape[d]; d--) {
      if (d == 0) return pieces;
      from[d] = 0;
      from[d - 1]++;
    }
  }
}

PieceMemory::PieceMemory(Accelerator* accelerator) : accelerator_(accelerator) {
  if (accelerator) data_ = static_cast<float*>(accelerator->pinned(kElements * int64_t(sizeof(float))));
}

PieceMemory::~PieceMemory() {
  if (accelerator_) accelerator_->free_pinned(data_);
}

void copy_into_box(const Context& ctx, const float* values, const BoxPiece& piece, const Tensor& box) {
  const size_t rank = piece.count.size();
  const std::vector<int64_t> shape(box.shape.begin(), box.shape.begin() + box.rank);
  JAMBALAYA_CHECK(rank == shape.size() && rank > 0);
  if (piece.elements() == 0) return;
  // Dimensions beyond `run` are whole: a stretch of memory is piece.count[run] of them. The dimension before
  // it gives the rows of one strided copy, those before that one copy each.
  size_t run = rank - 1;
  while (run > 0 && piece.count[run] == shape[run]) run--;
  const int64_t inner = product(shape, run + 1), length = piece.count[run] * inner;
  const int64_t rows = run > 0 ? piece.count[run - 1] : 1;
  std::vector<int64_t> at(run > 0 ? run - 1 : 0, 0);
  for (const float* from = values;; from += rows * length) {
    int64_t element = 0;
    for (size_t d = 0; d < rank; d++)
      element = element * shape[d] + piece.from[d] + (d < at.size() ? at[d] : 0);
    Tensor source = make_tensor(const_cast<float*>(from), {rows, length}), target = source;
    target.data = box.address(element);
    target.device = box.device;
    target.row_stride = shape[run] * inner;
    copy(ctx, source, target);
    size_t d = at.size();
    for (; d > 0; d--) {
      if (++at[d - 1] < piece.count[d - 1]) break;
      at[d - 1] = 0;
    }
    if (d == 0) return;
  }
}

}  // namespace jambalaya
