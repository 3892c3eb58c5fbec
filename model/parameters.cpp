#include "model/parameters.h"

#include <algorithm>
#include <stdexcept>

#include "kernels/ops.h"
#include "kernels/transfer.h"

namespace jambalaya {

Parameters::Parameters(const ModelConfig& config, Precision precision, bool with_gradients,
                       const PlacementRanks& ranks, Accelerator* accelerator)
    : config_(config),
      precision_(precision),
      ranks_(ranks),
      accelerator_(accelerator),
      table_(parameter_table(config)) {
  for (const ParameterRow& row : table_) shapes_.push_back(local_shape(row, ranks_));
  plan_ = plan_parts(table_, ranks_, precision == Precision::bf16);
  const Residents n = residents(plan_, ranks_, with_gradients);
  parameter_arena_ = std::make_unique<Arena>(
      "parameters", (plan_.owned_size + n.values) * 4 + n.compute * 2 + 4096, accelerator);
  masters_ = parameter_arena_->tensor(DType::f32, {plan_.owned_size}, "masters");
  if (with_gradients) {
    gradient_arena_ =
        std::make_unique<Arena>("gradients", (plan_.owned_size + n.gradients) * 4 + 4096, accelerator);
    gradients_ = gradient_arena_->tensor(DType::f32, {plan_.owned_size}, "gradients");
    if (n.gradients)
      whole_gradients_ =
          gradient_arena_->tensor(DType::f32, {n.gradients}, "gradients before their reduction");
  }
  if (accelerator) {  // fresh host memory is zero, and padding stays so; device memory holds anything
    const Context ctx = transfer_context(accelerator);
    for (const Tensor& t : {masters_, gradients_, whole_gradients_})
      if (t) clear(ctx, t);
  }
  place_resident();
}

Parameters::~Parameters() = default;

void Parameters::place_resident() {
  const Residents n = residents(plan_, ranks_, with_gradients());
  float *values = nullptr, *gradients = nullptr;
  bf16* compute = nullptr;
  if (n.values) values = parameter_arena_->array<float>(n.values, "gathered values");
  if (n.compute) compute = parameter_arena_->array<bf16>(n.compute, "compute copies");
  if (n.gradients) gradients = whole_gradients_.ptr<float>();
  for (const Part& part : plan_.parts) {
    PartMemory m;
    const bool sharded = part.shards > 1;
    if (!(sharded && ranks_.full)) {
      if (part.compute) m.compute = compute, compute += part.size;
      if (!sharded) {
        m.value = masters_.ptr<float>() + part.owned;
        if (gradients_) m.gradient = gradients_.ptr<float>() + part.owned;
      } else {
        if (part.value) m.value = values, values += part.size;
        if (gradients) m.gradient = gradients, gradients += part.size;
      }
    }
    memory_.push_back(m);
  }
}

int Parameters::index(const std::string& name) const {
  for (size_t i = 0; i < table_.size(); i++)
    if (table_[i].name == name) return int(i);
  throw std::logic_error(cat("no parameter is named ", name));
}

bool Parameters::has(const std::string& name) const {
  return std::any_of(table_.begin(), table_.end(), [&](const ParameterRow& row) { return row.name == name; });
}

Tensor Parameters::shaped(int row, void* part_memory, DType dtype) const {
  const std::vector<int64_t>& shape = shapes_[size_t(row)];
  JAMBALAYA_CHECK(part_memory, table_[size_t(row)].name, " is used while its unit is not borrowed");
  const int64_t at = offset(row) - plan_.parts[size_t(plan_.part_of[size_t(row)])].begin;
  Tensor t;
  t.data = static_cast<char*>(part_memory) + at * size_of(dtype);
  t.dtype = dtype;
  t.device = device();
  t.rank = int(shape.size());
  std::copy(shape.begin(), shape.end(), t.shape.begin());
  t.row_stride = t.columns();
  return t;
}

Tensor Parameters::value(int row) const {
  return shaped(row, memory_[size_t(plan_.part_of[size_t(row)])].value, DType::f32);
}

Tensor Parameters::compute(int row) const {
  const size_t part = size_t(plan_.part_of[size_t(row)]);
  if (!plan_.parts[part].compute) return value(row);
  return shaped(row, memory_[part].compute, DType::bf16);
}

Tensor Parameters::gradient(int row) const {
  JAMBALAYA_CHECK(gradients_, "these parameters were made without gradients");
  return shaped(row, memory_[size_t(plan_.part_of[size_t(row)])].gradient, DType::f32);
}

Tensor Parameters::master(int row) const {
  const Part& part = plan_.parts[size_t(plan_.part_of[size_t(row)])];
  JAMBALAYA_CHECK(part.shards == 1, table_[size_t(row)].name, " is sharded: no rank holds it whole");
  return shaped(row, masters_.ptr<float>() + part.owned, DType::f32);
}

Tensor Parameters::owned_gradient() const {
  JAMBALAYA_CHECK(gradients_, "these parameters were made without gradients");
  return gradients_;
}

Tensor Parameters::owned_compute(int part) const {
  const Part& p = plan_.parts[size_t(part)];
  if (!p.compute || p.shards > 1) return {};
  return make_tensor(memory_[size_t(part)].compute, DType::bf16, {p.size}, device());
}

/// Elements [begin, end) of a slice, counted from its first.
void Parameters::initialize_slice(const OwnedSlice& slice, uint64_t seed, int64_t begin, int64_t end,
                                  float* out) const {
  const ParameterRow& row = table_[size_t(slice.row)];
  float* const row_start = out - slice.begin - begin;
  for (const Rectangle& piece : pieces(row, ranks_, slice.begin + begin, slice.begin + end))
    for (const Stretch& run : stretches(row, piece))
      initial_values(config_, row, seed, run.global, run.global + run.count, row_start + run.local);
}

void Parameters::initialize(uint64_t seed, ThreadPool* pool) {
  constexpr int64_t kChunk = 1 << 16, kStaged = 1 << 22;  // elements: of a thread, on their way to a device
  const Context ctx = transfer_context(accelerator_);
  std::vector<float> staged;
  for (const OwnedSlice& slice : plan_.slices) {
    const int64_t n = slice.end - slice.begin, most = accelerator_ ? std::min(n, kStaged) : n;
    if (accelerator_) staged.resize(size_t(most));
    for (int64_t first = 0; first < n; first += most) {
      const int64_t count = std::min(most, n - first);
      const Tensor there = masters_.slice_rows(slice.at + first, slice.at + first + count);
      float* const out = accelerator_ ? staged.data() : there.ptr<float>();
      auto fill = [&](int64_t begin, int64_t end) {
        initialize_slice(slice, seed, first + begin, first + end, out + begin);
      };
      if (pool)
        pool->run_range(count, kChunk, fill);
      else
        fill(0, count);
      if (accelerator_) copy(ctx, make_tensor(staged.data(), {count}), there);
    }
  }
}

void Parameters::refresh_compute(Context& ctx) {
  for (size_t i = 0; i < plan_.parts.size(); i++) {
    const Part& part = plan_.parts[i];
    if (Tensor copy = owned_compute(int(i)))
      ctx.ops->scale_copy(ctx, {.x = masters_.slice_rows(part.owned, part.owned + part.size), .y = copy});
  }
}

void Parameters::zero_gradients(Context& ctx) {
  for (const Tensor& gradients : {gradients_, whole_gradients_}) {
    if (!gradients) continue;
    if (ctx.device == Device::cuda)
      clear(ctx, gradients);
    else
      ctx.pool->run_range(gradients.numel(), 1 << 18,
                          [&](int64_t begin, int64_t end) { clear(ctx, gradients.slice_rows(begin, end)); });
  }
}

}  // namespace jambalaya
