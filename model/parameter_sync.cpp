#include "model/parameter_sync.h"

#include <algorithm>
#include <chrono>

#include "kernels/trace.h"
#include "model/shard_moves.h"

namespace jambalaya {

namespace {
using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}
}  // namespace

ParameterSync::ParameterSync(Parameters& parameters, Mesh& mesh, int64_t bucket_bytes)
    : parameters_(parameters),
      queue_(mesh.link()),
      groups_{{&mesh.dense_shard(), &mesh.dense_replicas(), nullptr, {}},
              {&mesh.expert_shard(), &mesh.expert_replicas(), nullptr, {}}} {
  JAMBALAYA_CHECK(parameters.accelerator() == mesh.link().accelerator, "parameters of another device");
  bool sharded = false;
  for (size_t i = 0; i < parameters.parts().size(); i++) {
    const Part& part = parameters.parts()[i];
    JAMBALAYA_CHECK(part.shards == group_of(part).shard->size(), "parameters of another mesh");
    parts_.resize(std::max(parts_.size(), size_t(part.unit) + 1));
    parts_[size_t(part.unit)].push_back(int(i));
    memory_.push_back(parameters.memory(int(i)));
    sharded = sharded || part.shards > 1;
  }
  gathered_.resize(parts_.size(), 0);
  if (sharded && parameters.ranks().full)
    ring_ = std::make_unique<UnitRing>(parameters, queue_, mesh.dense_shard(), mesh.expert_shard());
  if (parameters.with_gradients()) {
    if (mesh.tensor().size() > 1) tensor_sums_ = std::make_unique<TensorSums>(parameters, mesh.tensor());
    for (bool expert : {false, true}) make_reducer(groups_[expert], expert, bucket_bytes);
  }
  if (sharded) parameters.set_lender(this);
}

ParameterSync::~ParameterSync() {
  parameters_.set_lender(nullptr);
  try {
    queue_.drain();  // jobs use what is about to go (what they enqueued on a device, Arena waits for)
  } catch (const std::exception&) {
    // Someone lost a peer and is on the way out: the error that brought us here is the one to be told.
  }
}

void ParameterSync::make_reducer(Group& group, bool expert, int64_t bucket_bytes) {
  if (group.shard->size() > 1 || group.replicas->size() == 1) return;
  std::vector<GradientReducer::Range> ranges;  // a unit's parts lie side by side
  group.reducer_group.assign(parts_.size(), -1);
  int64_t first = -1, last_unit = -1;
  for (const Part& part : parameters_.parts()) {
    if (part.expert != expert) continue;
    if (first < 0) first = part.owned;
    const int64_t begin = part.owned - first;
    if (part.unit == last_unit) {
      ranges.back().end = begin + part.size;
    } else {
      group.reducer_group[size_t(part.unit)] = int(ranges.size());
      ranges.push_back({begin, begin + part.size, part.unit});
    }
    last_unit = part.unit;
  }
  if (ranges.empty()) return;
  const Tensor gradients = parameters_.owned_gradient().slice_rows(first, first + ranges.back().end);
  group.reducer = std::make_unique<GradientReducer>(queue_, *group.replicas, gradients, ranges, bucket_bytes);
}

// ---- values ----

void ParameterSync::refresh() {
  queue_.drain();
  if (ring_) return ring_->invalidate();
  for (size_t unit = 0; unit < parts_.size(); unit++)
    if (std::any_of(parts_[unit].begin(), parts_[unit].end(),
                    [&](int i) { return stays(parameters_.parts()[size_t(i)]); }))
      gather_unit(int(unit));
}

void ParameterSync::gather_unit(int unit) {
  int64_t bytes = 0;
  for (int i : parts_[size_t(unit)]) {
    PartMemory hidden = parameters_.memory(i);  // while it is being rewritten
    if (!stays(parameters_.parts()[size_t(i)])) continue;
    bytes += gathered_bytes(parameters_.parts()[size_t(i)]);
    hidden.value = nullptr, hidden.compute = nullptr;
    parameters_.place(i, hidden);
  }
  gathered_[size_t(unit)] = queue_.push([this, unit, bytes] {
    TraceScope scope(trace::numbered("gather values of unit", unit), "gather", "unit", unit, bytes);
    for (int i : parts_[size_t(unit)]) {
      const Part& part = parameters_.parts()[size_t(i)];
      if (stays(part))
        gather_values(queue_.context(), parameters_, i, memory_[size_t(i)], *group_of(part).shard);
    }
  });
}

void ParameterSync::wait_for_values(int unit) {
  int64_t& job = gathered_[size_t(unit)];
  if (job == 0) return;
  TraceScope scope("wait for values", "wait", "unit", unit);
  const Clock::time_point start = Clock::now();
  queue_.wait(job);
  gather_wait_ += seconds_since(start);
  for (int i : parts_[size_t(unit)])
    if (stays(parameters_.parts()[size_t(i)])) parameters_.place(i, memory_[size_t(i)]);
  job = 0;
}

void ParameterSync::borrow(int unit, Travel travel) {
  if (ring_) return ring_->borrow(unit, travel);
  wait_for_values(unit);
}

void ParameterSync::give_back(int unit, Travel travel) {
  if (!ring_) return;
  // Sums over tensor ranks belong to dense rows; in the ring they are at hand here for the last time.
  if (travel == Travel::backward && tensor_sums_ && groups_[0].shard->size() > 1) tensor_sums_->run(unit);
  ring_->give_back(unit, travel);
}

double ParameterSync::take_gather_wait_seconds() {
  double seconds = gather_wait_;
  gather_wait_ = 0;
  if (ring_) {
    seconds += ring_->wait_seconds - ring_wait_taken_;
    ring_wait_taken_ = ring_->wait_seconds;
  }
  return seconds;
}

// ---- gradients ----

void ParameterSync::begin_backward(bool last) {
  last_ = last;
  for (Group& group : groups_)
    if (last && group.reducer) group.reducer->begin();
}

void ParameterSync::gradients_ready(int layer) {
  if (!last_) return;
  const int unit = layer + 1;
  TraceScope traced("send gradients", "send", "unit", unit);
  const bool dense_in_ring = ring_ && groups_[0].shard->size() > 1;
  if (tensor_sums_ && !dense_in_ring) tensor_sums_->run(unit);
  for (Group& group : groups_)
    if (group.reducer && group.reducer_group[size_t(unit)] >= 0)
      group.reducer->ready(group.reducer_group[size_t(unit)]);
  for (int part : parts_[size_t(unit)])
    if (parameters_.parts()[size_t(part)].shards > 1) reduce_sharded(part);
}

/// Over the shard group, unless the ring has done so already, and then over those that own the same range.
void ParameterSync::reduce_sharded(int index) {
  queue_.push([this, index] {
    const Part& part = parameters_.parts()[size_t(index)];
    Group& group = group_of(part);
    if (!stays(part) && group.replicas->size() == 1) return;  // the ring has done it all
    TraceScope scope(trace::numbered("reduce gradients of unit", part.unit), "reduce", "unit", part.unit,
                     part.size * int64_t(sizeof(float)));
    if (stays(part))
      reduce_gradients(queue_.context(), parameters_, index, memory_[size_t(index)], *group.shard, false);
    if (group.replicas->size() > 1)
      group.replicas->all_reduce(
          parameters_.owned_gradient().slice_rows(part.owned, part.owned + part.owned_size()));
  });
}

void ParameterSync::finish() {
  TraceScope scope("wait for gradients", "wait");
  const Clock::time_point start = Clock::now();
  for (Group& group : groups_)
    if (group.reducer) group.reducer->flush();
  queue_.drain();
  reduce_wait_ = seconds_since(start);
}

}  // namespace jambalaya
