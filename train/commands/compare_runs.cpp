// jambalaya compare-runs: the first step and the first tensor in which two runs differ.
#include "train/run/compare_runs.h"

#include <cstdio>

#include "train/commands/commands.h"
#include "train/json.h"

namespace jambalaya {
namespace {

constexpr int different = 17;  // as `compare`: a validation failed

std::string short_form(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}
std::string single(float value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", double(value));  // nine digits tell all floats apart
  return text;
}
std::string index_text(const std::vector<int64_t>& index) {
  std::string text = "[";
  for (size_t i = 0; i < index.size(); i++) text += cat(i ? ", " : "", index[i]);
  return text + "]";
}

std::string sentence(const MetricDifference& d) {
  return cat("step ", d.step, ": ", d.field, " ", d.a, " | ", d.b, " (relative ", short_form(d.relative),
             ")");
}
std::string sentence(const TensorDifference& d) {
  if (!d.why.empty()) return cat(d.name, ": ", d.why);
  return cat(d.name, index_text(d.index), ": ", single(d.a), " | ", single(d.b), "; ", d.differing, " of ",
             d.elements, " elements differ, by at most ", short_form(d.max_abs), ", relative L2 ",
             short_form(d.relative_l2));
}

void print_settings(const RunComparison& result, bool expected, const char* title) {
  bool titled = false;
  for (const SettingDifference& d : result.settings) {
    if (d.expected != expected) continue;
    if (!titled) std::printf("%s\n", title);
    titled = true;
    std::printf("  %-32s %s | %s\n", d.key.c_str(), d.a.c_str(), d.b.c_str());
  }
}

void print_metrics(const MetricsComparison& m) {
  std::printf("metrics: %lld steps compared (%lld to %lld), %lld differ\n", static_cast<long long>(m.steps),
              static_cast<long long>(m.first_step), static_cast<long long>(m.last_step),
              static_cast<long long>(m.differing));
  if (m.first) std::printf("  first    %s\n", sentence(*m.first).c_str());
  if (m.largest) std::printf("  largest  %s\n", sentence(*m.largest).c_str());
}

void print_checkpoint(const CheckpointComparison& c) {
  std::printf("checkpoint step %lld: %lld of %lld tensors differ\n", static_cast<long long>(c.step),
              static_cast<long long>(c.differing), static_cast<long long>(c.tensors));
  for (const SettingDifference& d : c.state)
    std::printf("  %-8s %s | %s\n", d.key.c_str(), d.a.c_str(), d.b.c_str());
  if (c.first) std::printf("  first    %s\n", sentence(*c.first).c_str());
  if (c.largest && (!c.first || c.largest->name != c.first->name))
    std::printf("  largest  %s\n", sentence(*c.largest).c_str());
}

std::string verdict(const RunComparison& result, double tolerance) {
  if (result.equal()) return tolerance > 0 ? cat("equal within ", short_form(tolerance)) : "equal to the bit";
  std::string text = "DIFFERENT:";
  if (result.metrics && result.metrics->first)
    text += cat(" from step ", result.metrics->first->step, " on (", result.metrics->first->field, ")");
  if (!result.checkpoints.empty() && !result.checkpoints.back().equal()) {
    const CheckpointComparison& c = result.checkpoints.back();
    text += cat(text.ends_with(")") ? ";" : "", " checkpoint of step ", c.step, ", ",
                c.first ? "first tensor " + c.first->name : "its " + c.state[0].key);
  }
  return text;
}

void print(const RunComparison& result, const CompareRunsOptions& o) {
  std::printf("A  %s\nB  %s\n", o.a.c_str(), o.b.c_str());
  print_settings(result, true, "settings that can make them differ (A | B):");
  print_settings(result, false, "settings that should change rounding at most (A | B):");
  if (result.metrics) print_metrics(*result.metrics);
  for (const CheckpointComparison& c : result.checkpoints) print_checkpoint(c);
  std::printf("%s\n", verdict(result, o.tolerance).c_str());
}

// ---- as JSON ----

Json json_of(const std::vector<SettingDifference>& differences) {
  Json all = Json::make_array();
  for (const SettingDifference& d : differences) {
    Json one = Json::make_object();
    one.set("key", d.key).set("a", d.a).set("b", d.b).set("expected", d.expected);
    all.array.push_back(std::move(one));
  }
  return all;
}

Json json_of(const std::optional<MetricDifference>& d) {
  if (!d) return {};
  Json one = Json::make_object();
  one.set("step", d->step).set("field", d->field).set("a", d->a).set("b", d->b);
  one.set("relative", json_number(d->relative));
  return one;
}

Json json_of(const std::optional<TensorDifference>& d) {
  if (!d) return {};
  Json one = Json::make_object();
  one.set("tensor", d->name);
  if (!d->why.empty()) return std::move(one.set("why", d->why));
  one.set("index", d->index).set("a", json_number(double(d->a))).set("b", json_number(double(d->b)));
  one.set("elements", d->elements).set("differing", d->differing);
  one.set("max_abs", json_number(d->max_abs)).set("relative_l2", json_number(d->relative_l2));
  return one;
}

Json json_of(const RunComparison& result, const CompareRunsOptions& o) {
  Json answer = Json::make_object();
  answer.set("a", o.a).set("b", o.b).set("tolerance", json_number(o.tolerance)).set("equal", result.equal());
  answer.set("settings", json_of(result.settings));
  if (const auto& m = result.metrics) {
    Json metrics = Json::make_object();
    metrics.set("steps", m->steps).set("first_step", m->first_step).set("last_step", m->last_step);
    metrics.set("differing", m->differing)
        .set("first", json_of(m->first))
        .set("largest", json_of(m->largest));
    answer.set("metrics", std::move(metrics));
  }
  Json checkpoints = Json::make_array();
  for (const CheckpointComparison& c : result.checkpoints) {
    Json one = Json::make_object();
    one.set("step", c.step).set("state", json_of(c.state)).set("tensors", c.tensors);
    one.set("differing", c.differing).set("first", json_of(c.first)).set("largest", json_of(c.largest));
    checkpoints.array.push_back(std::move(one));
  }
  return std::move(answer.set("checkpoints", std::move(checkpoints)));
}

}  // namespace

int run_compare_runs(const CompareRunsOptions& o) {
  const RunComparison result = compare_runs(o.a, o.b, o.tolerance);
  if (o.json)
    std::puts(json_of(result, o).text().c_str());
  else
    print(result, o);
  return result.equal() ? int(Exit::ok) : different;
}

}  // namespace jambalaya
