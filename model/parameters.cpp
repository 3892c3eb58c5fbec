#include "model/parameters.h"

#include <algorithm>

#include "kernels/ops.h"

namespace jambalaya {

namespace {
constexpr int64_t kAlign = 16;  // elements: 64 bytes of fp32

Tensor shaped(const Tensor& flat, int64_t offset, const std::vector<int64_t>& shape) {
  Tensor t = flat;
  t.data = flat.address(offset);
  t.rank = int(shape.size());
  std::copy(shape.begin(), shape.end(), t.shape.begin());
  t.row_stride = t.columns();
  return t;
}
}  // namespace

Parameters::Parameters(const ModelConfig& config, Precision precision, bool with_gradients)
    : config_(config), precision_(precision), table_(parameter_table(config)) {
  for (const ParameterRow& row : table_) {
    offsets_.push_back(flat_size_);
    flat_size_ += (row.numel() + kAlign - 1) / kAlign * kAlign;
  }
  parameter_arena_ = std::make_unique<Arena>("parameters", flat_size_ * 6 + (1 << 20));
  flat_master_ = parameter_arena_->tensor(DType::f32, {flat_size_}, "masters");
  if (precision == Precision::bf16)
    flat_compute_ = parameter_arena_->tensor(DType::bf16, {flat_size_}, "compute copies");
  if (with_gradients) {
    gradient_arena_ = std::make_unique<Arena>("gradients", flat_size_ * 4 + (1 << 20));
    flat_gradient_ = gradient_arena_->tensor(DType::f32, {flat_size_}, "gradients");
  }
}

Parameters::~Parameters() = default;

int Parameters::index(const std::string& name) const {
  for (size_t i = 0; i < table_.size(); i++)
    if (table_[i].name == name) return int(i);
  throw std::logic_error(cat("no parameter is named ", name));
}

bool Parameters::has(const std::string& name) const {
  return std::any_of(table_.begin(), table_.end(), [&](const ParameterRow& row) { return row.name == name; });
}

Tensor Parameters::master(int row) const {
  return shaped(flat_master_, offset(row), table_[size_t(row)].shape);
}
Tensor Parameters::gradient(int row) const {
  JAMBALAYA_CHECK(flat_gradient_, "these parameters were made without gradients");
  return shaped(flat_gradient_, offset(row), table_[size_t(row)].shape);
}
Tensor Parameters::compute(int row) const {
  const ParameterRow& r = table_[size_t(row)];
  return flat_compute_ && r.compute_copy ? shaped(flat_compute_, offset(row), r.shape) : master(row);
}
Tensor Parameters::flat_master() const { return flat_master_; }
Tensor Parameters::flat_gradient() const { return flat_gradient_; }
Tensor Parameters::flat_compute() const { return flat_compute_; }

void Parameters::initialize(uint64_t seed, ThreadPool* pool) {
  constexpr int64_t kChunk = 1 << 16;
  for (size_t i = 0; i < table_.size(); i++) {
    float* out = master(int(i)).ptr<float>();
    auto part = [&](int64_t begin, int64_t end) {
      initial_values(config_, table_[i], seed, begin, end, out + begin);
    };
    int64_t n = table_[i].numel();
    if (pool)
      pool->run_range(n, kChunk, part);
    else
      part(0, n);
  }
}

void Parameters::refresh_compute(Context& ctx) {
  if (flat_compute_) ctx.ops->scale_copy(ctx, {.x = flat_master_, .y = flat_compute_});
}

void Parameters::zero_gradients(Context& ctx) {
  if (flat_gradient_)
    ctx.pool->run_range(flat_size_, 1 << 18, [&](int64_t begin, int64_t end) {
      float* g = flat_gradient_.ptr<float>();
      std::fill(g + begin, g + end, 0.0f);
    });
}

}  // namespace jambalaya
