#include "model/unit_ring.h"

#include <algorithm>
#include <chrono>
#include <map>

#include "kernels/trace.h"
#include "kernels/transfer.h"
#include "model/shard_moves.h"

namespace jambalaya {

namespace {
int64_t round_up(int64_t n) { return (n + 63) / 64 * 64; }
int64_t value_bytes(const Part& part) {
  return (part.value ? round_up(part.size * 4) : 0) + (part.compute ? round_up(part.size * 2) : 0);
}
}  // namespace

UnitRing::UnitRing(Parameters& parameters, CommunicationQueue& queue, Communicator& dense_shard,
                   Communicator& expert_shard)
    : parameters_(parameters), queue_(queue), dense_(dense_shard), expert_(expert_shard) {
  for (size_t i = 0; i < parameters.parts().size(); i++) {
    const Part& part = parameters.parts()[i];
    if (part.shards == 1) continue;
    parts_.resize(std::max(parts_.size(), size_t(part.unit) + 1));
    parts_[size_t(part.unit)].push_back(int(i));
  }
  const SlotBytes bytes = slot_bytes(parameters.parts());
  const int64_t capacity = kValueSlots * bytes.values + kGradientSlots * bytes.gradients;
  arena_ = std::make_unique<Arena>("borrowed units", capacity + 4096, parameters.accelerator());
  for (int i = 0; i < kValueSlots; i++) {
    ValueSlot slot;
    slot.data = arena_->array<char>(bytes.values, "values");
    values_.push_back(slot);
  }
  if (!parameters.with_gradients()) return;
  for (int i = 0; i < kGradientSlots; i++) {
    GradientSlot slot;
    slot.data = arena_->array<float>(bytes.gradients / 4, "gradients");
    clear(transfer_context(parameters.accelerator()),
          make_tensor(slot.data, DType::f32, {bytes.gradients / 4}, parameters.device()));
    gradients_.push_back(slot);
  }
}

UnitRing::SlotBytes UnitRing::slot_bytes(const std::vector<Part>& parts) {
  std::map<int, SlotBytes> of_unit;
  for (const Part& part : parts) {
    if (part.shards == 1) continue;
    of_unit[part.unit].values += value_bytes(part);
    of_unit[part.unit].gradients += part.size * 4;
  }
  SlotBytes largest;
  for (const auto& [unit, bytes] : of_unit) {
    largest.values = std::max(largest.values, bytes.values);
    largest.gradients = std::max(largest.gradients, bytes.gradients);
  }
  return largest;
}

std::vector<PartMemory> UnitRing::layout(int unit, char* values, float* gradients) const {
  std::vector<PartMemory> all;
  for (int index : parts_[size_t(unit)]) {
    const Part& part = parameters_.parts()[size_t(index)];
    PartMemory m;
    if (values) {
      if (part.value) m.value = reinterpret_cast<float*>(values), values += round_up(part.size * 4);
      if (part.compute) m.compute = reinterpret_cast<bf16*>(values), values += round_up(part.size * 2);
    }
    if (gradients) m.gradient = gradients, gradients += part.size;
    all.push_back(m);
  }
  return all;
}

/// Shows the parameters where the unit is now.
void UnitRing::place(int unit) {
  const auto value = std::find_if(values_.begin(), values_.end(),
                                  [&](const ValueSlot& s) { return s.unit == unit && s.uses > 0; });
  const auto gradient = std::find_if(gradients_.begin(), gradients_.end(),
                                     [&](const GradientSlot& s) { return s.unit == unit; });
  const std::vector<PartMemory> memory = layout(unit, value == values_.end() ? nullptr : value->data,
                                                gradient == gradients_.end() ? nullptr : gradient->data);
  for (size_t i = 0; i < memory.size(); i++) parameters_.place(parts_[size_t(unit)][i], memory[i]);
}

UnitRing::ValueSlot* UnitRing::find(int unit) {
  for (ValueSlot& slot : values_)
    if (slot.unit == unit) return &slot;
  return nullptr;
}

/// Fills the slot that was not used for longest; null when all are in use.
UnitRing::ValueSlot* UnitRing::gather(int unit) {
  ValueSlot* slot = nullptr;
  for (ValueSlot& s : values_)
    if (s.uses == 0 && (!slot || s.last_use < slot->last_use)) slot = &s;
  if (!slot) return nullptr;
  slot->unit = unit;
  slot->last_use = ++clock_;
  int64_t bytes = 0;
  for (int part : parts_[size_t(unit)]) bytes += gathered_bytes(parameters_.parts()[size_t(part)]);
  slot->gathered = queue_.push([this, unit, bytes, memory = layout(unit, slot->data, nullptr)] {
    TraceScope scope(trace::numbered("gather values of unit", unit), "gather", "unit", unit, bytes);
    for (size_t i = 0; i < memory.size(); i++) {
      const int part = parts_[size_t(unit)][i];
      gather_values(queue_.context(), parameters_, part, memory[i], shard(part));
    }
  });
  return slot;
}

void UnitRing::borrow(int unit, Travel travel) {
  const auto has_parts = [&](int u) {
    return u >= 0 && size_t(u) < parts_.size() && !parts_[size_t(u)].empty();
  };
  if (has_parts(unit)) {
    ValueSlot* slot = find(unit);
    if (!slot) slot = gather(unit);
    JAMBALAYA_CHECK(slot, "more than ", kValueSlots, " units are borrowed at once");
    slot->uses++;
    slot->last_use = ++clock_;
    if (travel == Travel::backward && !gradients_.empty()) borrow_gradient(unit);
    TraceScope scope("wait for values", "wait", "unit", unit);
    const auto start = std::chrono::steady_clock::now();
    queue_.wait(slot->gathered);
    wait_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    place(unit);
  }
  const int next = travel == Travel::forward ? unit + 1 : unit - 1;
  if (has_parts(next) && !find(next)) gather(next);
}

void UnitRing::borrow_gradient(int unit) {
  GradientSlot* slot = nullptr;
  for (GradientSlot& s : gradients_)
    if (s.unit == unit || (s.uses == 0 && (!slot || s.cleared < slot->cleared))) {
      slot = &s;
      if (s.unit == unit) break;
    }
  JAMBALAYA_CHECK(slot, "more than ", kGradientSlots, " units are in a backward at once");
  TraceScope scope("wait for gradient memory", "wait", "unit", unit);
  queue_.wait(slot->cleared);
  slot->unit = unit;
  slot->uses++;
}

void UnitRing::give_back(int unit, Travel travel) {
  if (size_t(unit) >= parts_.size() || parts_[size_t(unit)].empty()) return;
  ValueSlot* slot = find(unit);
  JAMBALAYA_CHECK(slot && slot->uses > 0, "unit ", unit, " was not borrowed");
  slot->uses--;
  if (travel == Travel::backward && !gradients_.empty()) give_gradient_back(unit);
  place(unit);
}

void UnitRing::give_gradient_back(int unit) {
  const auto slot = std::find_if(gradients_.begin(), gradients_.end(),
                                 [&](const GradientSlot& s) { return s.unit == unit; });
  JAMBALAYA_CHECK(slot != gradients_.end() && slot->uses > 0, "unit ", unit, " was not borrowed");
  if (--slot->uses > 0) return;
  TraceScope traced("send gradients", "send", "unit", unit);
  slot->unit = -1;
  int64_t bytes = 0;
  for (int part : parts_[size_t(unit)])
    bytes += parameters_.parts()[size_t(part)].size * int64_t(sizeof(float));
  slot->cleared = queue_.push([this, unit, bytes, memory = layout(unit, nullptr, slot->data)] {
    TraceScope scope(trace::numbered("reduce gradients of unit", unit), "reduce", "unit", unit, bytes);
    for (size_t i = 0; i < memory.size(); i++) {
      const int part = parts_[size_t(unit)][i];
      reduce_gradients(queue_.context(), parameters_, part, memory[i], shard(part), true);
      clear(queue_.context(), make_tensor(memory[i].gradient, DType::f32,
                                          {parameters_.parts()[size_t(part)].size}, parameters_.device()));
    }
  });
}

void UnitRing::invalidate() {
  for (ValueSlot& slot : values_) {
    JAMBALAYA_CHECK(slot.uses == 0, "unit ", slot.unit, " is borrowed while the masters change");
    slot.unit = -1;
  }
}

}  // namespace jambalaya
