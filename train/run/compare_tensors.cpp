// Two checkpoints of any layouts, tensor by tensor in the order of the parameter table.
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "data/loader.h"
#include "model/parameters.h"
#include "train/checkpoint/whole.h"
#include "train/run/compare_runs.h"

namespace jambalaya {
namespace {

using Stored = CheckpointInfo::Stored;

/// Name of a tensor -> where it is in the checkpoint.
std::map<std::string, const Stored*> by_name(const CheckpointInfo& info) {
  std::map<std::string, const Stored*> all;
  for (const Stored& stored : info.tensors) all[stored.name] = &stored;
  return all;
}

/// In the order of the table, so that the first difference is the one nearest to the input.
std::vector<std::string> names_in_order(const CheckpointInfo& a, const CheckpointInfo& b) {
  std::set<std::string> left;
  for (const CheckpointInfo* info : {&a, &b})
    for (const Stored& stored : info->tensors) left.insert(stored.name);
  std::vector<std::string> names;
  for (const CheckpointInfo* info : {&a, &b})
    for (const ParameterRow& row : parameter_table(info->model))
      for (const char* kind : {"param/", "adam_m/", "adam_v/"})
        if (left.erase(kind + row.name)) names.push_back(kind + row.name);
  names.insert(names.end(), left.begin(), left.end());
  return names;
}

std::vector<int64_t> index_of(int64_t flat, const std::vector<int64_t>& shape) {
  std::vector<int64_t> index(shape.size());
  for (size_t d = shape.size(); d-- > 0;) {
    index[d] = flat % shape[d];
    flat /= shape[d];
  }
  return index;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); i++) text += cat(i ? ", " : "", shape[i]);
  return text + "]";
}

void read_whole(const CheckpointInfo& info, const Stored& stored, std::vector<float>& values) {
  int64_t n = 1;
  for (int64_t extent : stored.global_shape) n *= extent;
  values.resize(size_t(n));
  std::vector<Box> boxes{whole_box(stored.name, stored.global_shape, values.data())};
  read_boxes(info, boxes);
}

void add(std::vector<SettingDifference>& all, const char* key, const std::string& a, const std::string& b) {
  if (a != b) all.push_back({key, a, b, true});
}

std::vector<SettingDifference> state_differences(const TrainState& a, const TrainState& b) {
  std::vector<SettingDifference> all;
  add(all, "step", cat(a.step), cat(b.step));
  add(all, "tokens", cat(a.tokens), cat(b.tokens));
  add(all, "optimizer steps", cat(a.optimizer_steps), cat(b.optimizer_steps));
  if (a.loader.empty() || b.loader.empty()) return all;  // an import has not read any data
  const LoaderState x = LoaderState::parse(a.loader), y = LoaderState::parse(b.loader);
  add(all, "data position", cat(x.position), cat(y.position));
  return all;
}

/// One tensor of both; none when all bits are the same.
std::optional<TensorDifference> compare_tensor(const CheckpointInfo& a, const CheckpointInfo& b,
                                               const Stored* in_a, const Stored* in_b,
                                               std::vector<float>& values_a, std::vector<float>& values_b) {
  TensorDifference found;
  found.relative_l2 = found.max_abs = std::numeric_limits<double>::infinity();
  if (!in_a || !in_b) {
    found.why = in_a ? "only in A" : "only in B";
    return found;
  }
  if (in_a->global_shape != in_b->global_shape) {
    found.why =
        cat("shape ", shape_text(in_a->global_shape), " in A, ", shape_text(in_b->global_shape), " in B");
    return found;
  }
  read_whole(a, *in_a, values_a);
  read_whole(b, *in_b, values_b);
  auto difference = compare_values(values_a.data(), values_b.data(), int64_t(values_a.size()));
  if (difference) difference->index = index_of(difference->index[0], in_a->global_shape);
  return difference;
}

}  // namespace

std::optional<TensorDifference> compare_values(const float* a, const float* b, int64_t n) {
  TensorDifference found;
  found.elements = n;
  double difference2 = 0, norm2 = 0;
  for (int64_t i = 0; i < n; i++) {
    if (std::isfinite(a[i])) norm2 += double(a[i]) * double(a[i]);
    if (std::memcmp(a + i, b + i, sizeof(float)) == 0) continue;
    if (found.differing++ == 0) {
      found.index = {i};
      found.a = a[i], found.b = b[i];
    }
    const double d = std::abs(double(a[i]) - double(b[i]));
    // A NaN would be lost in a maximum.
    const double size = std::isfinite(d) ? d : std::numeric_limits<double>::infinity();
    found.max_abs = std::max(found.max_abs, size);
    difference2 += size * size;
  }
  if (found.differing == 0) return std::nullopt;
  found.relative_l2 = difference2 == 0 ? 0 : std::sqrt(difference2 / norm2);  // infinite for a norm of zero
  return found;
}

CheckpointComparison compare_checkpoints(const CheckpointInfo& a, const CheckpointInfo& b, double tolerance) {
  CheckpointComparison result;
  result.step = a.state.step;
  result.state = state_differences(a.state, b.state);
  const auto in_a = by_name(a), in_b = by_name(b);
  std::vector<float> values_a, values_b;
  for (const std::string& name : names_in_order(a, b)) {
    result.tensors++;
    const auto x = in_a.find(name), y = in_b.find(name);
    auto found = compare_tensor(a, b, x == in_a.end() ? nullptr : x->second,
                                y == in_b.end() ? nullptr : y->second, values_a, values_b);
    if (!found) continue;
    found->name = name;
    // With the tolerance 0, other bits differ even where their distance is zero: 0 and -0.
    const bool covered = tolerance > 0 && found->relative_l2 <= tolerance;
    if (!covered && result.differing++ == 0) result.first = found;
    if (!result.largest || found->relative_l2 > result.largest->relative_l2) result.largest = found;
  }
  return result;
}

}  // namespace jambalaya
