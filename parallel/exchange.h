// Rows to the ranks that hold their experts, and the results back home: dropless, each expert as many rows as
// chose it. The same exchange serves the backward, where gradients of the results go the way of the rows and
// gradients of the rows the way of the results.
//
// Legend: X experts, x expert ranks, tau ranks that each hold a slice of the feed-forward width of the same
// experts, D width. Rank q = etp + tau * ep of Mesh::experts() holds slice etp of the experts
// [ep * X/x, (ep + 1) * X/x). A row goes to all tau ranks of its expert, and their tau partial results are
// summed at home in rank order: as many bytes as an all-to-all with a gather behind it, in one collective.
#pragma once
#include <vector>

#include "kernels/context.h"
#include "kernels/tensor.h"
#include "parallel/mesh.h"

namespace jambalaya {

/// Where the rows of one expert layer and micro-batch go. Every rank of Mesh::experts() makes its own at the
/// same time and makes the same calls, whatever was routed: experts that nobody chose and ranks without
/// tokens take part with no rows.
class ExpertRoute {
 public:
  ExpertRoute() = default;
  /// offsets i32 [X + 1]: this rank's `rows` rows sorted by expert (SortByExpert). What is remembered until
  /// the backward lies in `keep`.
  ///
  /// With several ranks the counts are read on the host, for they are the sizes of messages: on a device this
  /// is the one place in a layer where the host waits.
  ExpertRoute(Context& ctx, Mesh& mesh, Arena& keep, const Tensor& offsets, int64_t rows);

  /// One rank holds all experts whole: rows stay where they are and nothing is copied.
  bool alone() const { return ranks_ == nullptr; }
  /// Rows that came to the experts here, sorted by expert.
  int64_t arrived() const { return arrived_; }
  const Tensor& offsets() const { return offsets_; }  ///< i32 [X/x + 1] of them
  /// The same on the host, for as long as this lives; null when alone: then the host was not told.
  const int32_t* host_offsets() const { return host_offsets_.empty() ? nullptr : host_offsets_.data(); }

  /// rows [home rows, D], sorted by expert -> [arrived, D], sorted by expert; `rows` itself when alone, else
  /// in `arena`. Scratch is used meanwhile: hold an ArenaScope where `arena` is scratch.
  Tensor dispatch(Context& ctx, const Tensor& rows, Arena& arena) const;
  /// Where the experts write their partial results before collect(): `sum` itself when alone, else scratch.
  Tensor partial(Context& ctx, const Tensor& sum) const;
  /// sum [home rows, D] <- the tau partial results of each row, from where its expert is. Partials travel in
  /// the dtype of the sum, are added in fp32 and rounded once.
  void collect(Context& ctx, const Tensor& partial, const Tensor& sum) const;

 private:
  /// What the host must know of the rows' number.
  struct Counts {
    std::vector<int32_t> own;       ///< offsets, [X + 1]
    std::vector<int32_t> arriving;  ///< rows that each rank has for each expert here, [ranks, X/x]
  };
  Counts exchange_counts(Context& ctx, Mesh& mesh, const Tensor& offsets) const;
  void order_arrivals(const std::vector<int32_t>& counts, int64_t experts);
  void place_summands();
  void upload(Context& ctx, Arena& keep);

  Communicator* ranks_ = nullptr;
  int slices_ = 1;  ///< tau
  int64_t home_ = 0, arrived_ = 0;
  Tensor offsets_;
  std::vector<int32_t> host_offsets_;
  std::vector<int64_t> send_rows_, send_starts_, receive_rows_;  ///< per rank of the group
  std::vector<int32_t> maps_;  ///< while they are made: the three below, one after the other
  Tensor by_expert_;  ///< i32 [arrived]: the arrival (in order of ranks) that stands at each sorted row
  Tensor by_rank_;    ///< i32 [arrived]: its inverse
  Tensor summands_;   ///< i32 [home rows, tau]: where each row's partial results come in
};

}  // namespace jambalaya
