// One model twice: whole on one rank, and cut by a layout over the ranks of the test. What the layout
// computes is compared with the slices of what one rank computes.
#pragma once
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/model.h"
#include "tests/support/ranks.h"

namespace jambalaya::test {

/// Documents [first, last) of a batch.
inline TestBatch documents_of(const TestBatch& batch, size_t first, size_t last) {
  TestBatch part = batch;
  int64_t begin = 0, end = 0;
  for (size_t s = 0; s < last; s++) (s < first ? begin : end) += batch.lengths[s];
  end += begin;
  part.ids = {batch.ids.begin() + begin, batch.ids.begin() + end};
  part.targets = {batch.targets.begin() + begin, batch.targets.begin() + end};
  part.lengths = {batch.lengths.begin() + int64_t(first), batch.lengths.begin() + int64_t(last)};
  part.documents.assign(part.lengths);
  return part;
}

/// Relative error in the Euclidean norm; of references smaller than `floor`, relative to that.
inline double relative_error(const std::vector<float>& got, const std::vector<float>& want,
                             double floor = 1e-7) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < want.size(); i++) {
    const double difference = double(got.at(i)) - double(want[i]);
    error += difference * difference;
    norm += double(want[i]) * double(want[i]);
  }
  const double e = std::sqrt(error) / std::max(std::sqrt(norm), floor);
  return std::isnan(e) ? INFINITY : e;
}

/// The part of `whole` (a row of one rank's parameters or gradients) that lies here.
inline std::vector<float> local_part(const ParameterRow& row, const PlacementRanks& ranks,
                                     const Tensor& whole) {
  const std::vector<float> all = copied(whole);
  std::vector<float> part;
  for (const auto& piece : pieces(row, ranks))
    for (const auto& run : stretches(row, piece)) {
      part.resize(std::max(part.size(), size_t(run.local + run.count)));
      std::copy_n(all.begin() + run.global, run.count, part.begin() + run.local);
    }
  return part;
}

/// The part of a data rank's documents that lies on one of its context ranks.
struct RankBatch {
  RankBatch(Mesh& mesh, const TestBatch& batch)
      : whole(batch), shard(batch.lengths, mesh.context_rank(), mesh.context().size()) {}
  int64_t first() const { return shard.range(shard.rank()).begin; }
  int64_t tokens() const { return shard.tokens(); }
  Batch view() {
    if (shard.ranks() == 1) return whole.view();
    return {make_tensor(whole.ids.data() + first(), {tokens()}),
            make_tensor(whole.targets.data() + first(), {tokens()}), shard.documents(), &shard};
  }
  TestBatch whole;
  ContextShard shard;
};

/// This rank's part of a model, with the values of `whole`.
struct RankModel {
  RankModel(TestModel& whole, const Layout& layout, int threads = 1)
      : context(threads, "", int64_t(1) << 34),
        mesh(world().split(0, "test"), layout, device_link()),
        regions(mesh),
        parameters(whole.config(), whole.parameters.precision(), true, placement_of(mesh),
                   accelerator_or_none()),
        jamba(parameters, regions) {
    context.on.run_ahead();
    for (size_t i = 0; i < parameters.table().size(); i++) {
      const std::vector<float> values =
          local_part(parameters.table()[i], parameters.ranks(), whole.parameters.master(int(i)));
      SCOPED_TRACE(parameters.table()[i].name);
      assign(parameters.master(int(i)), values);
    }
    parameters.refresh_compute(context);
  }

  /// This data rank's documents of a batch, [n d / data, n (d + 1) / data).
  TestBatch share_of(const TestBatch& batch) const {
    const size_t n = batch.lengths.size(), d = size_t(mesh.data_rank()), all = size_t(mesh.layout().data);
    return documents_of(batch, n * d / all, n * (d + 1) / all);
  }

  /// Forward and backward of this rank's share; the sums are those of all ranks, the gradients complete.
  double train(const TestBatch& batch) {
    std::fill(sums.begin(), sums.end(), 0.0);
    parameters.zero_gradients(context);
    RankBatch own(mesh, share_of(batch));
    jamba.train(context, own.view(), batch.scale(), make_tensor(sums.data(), {kLossSums}));
    synchronize(context);
    complete_gradients();
    return objective(parameters.config(), sums_of_all(), batch.scale());
  }
  /// Sums over the ranks that see other tokens; what each adds for the whole micro-batch counts once.
  const double* sums_of_all() {
    mesh.tokens().all_reduce(make_tensor(sums.data(), {kLossSums}));
    sums[kAux] /= mesh.tokens().size();
    sums[kRouterZ] /= mesh.tokens().size();
    return sums.data();
  }

  TestContext context;
  Mesh mesh;
  Regions regions;
  Parameters parameters;
  Jamba jamba;
  DeviceVector<double> sums = DeviceVector<double>(kLossSums);

 private:
  /// Sums over the ranks that hold the same elements and saw other tokens or other query heads.
  void complete_gradients() {
    for (size_t i = 0; i < parameters.table().size(); i++) {
      const ParameterRow& row = parameters.table()[i];
      std::vector<float> g = copied(parameters.gradient(int(i)));
      const int64_t n = int64_t(g.size());
      (row.placement.expert ? mesh.expert_data() : mesh.tokens()).all_reduce(make_tensor(g.data(), {n}));
      if (summed_over_tensor_ranks(row, parameters.ranks())) {
        const int ranks = mesh.tensor().size(), same = copies(row, parameters.ranks());
        std::vector<float> all(size_t(n * ranks));
        mesh.tensor().all_gather(make_tensor(g.data(), {n}), make_tensor(all.data(), {n * ranks}));
        const int first = mesh.tensor_rank() / same * same;  // copies lie on neighbours
        for (int64_t j = 0; j < n; j++) {
          g[size_t(j)] = 0;
          for (int r = first; r < first + same; r++) g[size_t(j)] += all[size_t(r * n + j)];
        }
      }
      assign(parameters.gradient(int(i)), g);
    }
  }
};

}  // namespace jambalaya::test
