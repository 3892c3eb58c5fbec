// metrics.jsonl of two runs, step by step. What belongs to the machine and the moment is not compared.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "train/json.h"
#include "train/run/compare_runs.h"

namespace jambalaya {
namespace {

/// In the order in which a step makes them: the first that differs is nearest to the cause.
struct Field {
  const char* name;
  bool exact;  ///< whole numbers, to which the tolerance does not apply
};
constexpr Field fields[] = {{"tokens", true},
                            {"epoch", true},
                            {"rows_crc32c", true},
                            {"lr", false},
                            {"loss", false},
                            {"aux_loss", false},
                            {"router_z", false},
                            {"head_z", false},
                            {"activation_loss", false},
                            {"grad_norm", false},
                            {"held_out_nats_per_token", false}};

/// The lines of a metrics file, one after another.
class MetricsReader {
 public:
  explicit MetricsReader(const std::string& path) : path_(path), file_(path) {
    if (!file_) throw Error(Exit::bad_input, cat(path, ": cannot be read"));
  }
  /// False at the end. A last line without its end is one that a killed run did not finish.
  bool next() {
    std::string line;
    if (!std::getline(file_, line) || file_.eof()) return false;
    number_++;
    const std::string source = cat(path_, ":", number_);
    json_ = parse_json(line, source);
    const int64_t step = JsonReader(json_, source, Exit::bad_input).integer("step");
    if (number_ > 1 && step <= step_)
      throw Error(Exit::bad_input, cat(source, ": step ", step, " comes after step ", step_));
    step_ = step;
    return true;
  }
  int64_t step() const { return step_; }
  /// None when this step does not tell it.
  std::optional<double> number(const char* field) const {
    if (!json_.find(field)) return std::nullopt;
    return JsonReader(json_, cat(path_, ":", number_), Exit::bad_input).number(field);
  }
  std::string text(const char* field) const {
    const Json* value = json_.find(field);
    return value && value->is(Json::Kind::string) ? value->string : "";
  }

 private:
  std::string path_;
  std::ifstream file_;
  Json json_;
  int64_t number_ = 0, step_ = 0;
};

bool same_bits(double a, double b) {
  return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b));
}

double relative_difference(double a, double b) {
  if (same_bits(a, b)) return 0;
  const double difference = std::abs(a - b);
  if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
  return difference == 0 ? 0 : difference / std::max(std::abs(a), std::abs(b));
}

/// All differences of one step, in the order of `fields`; `beyond`: the first that the tolerance does not
/// cover.
std::vector<MetricDifference> differences_of_step(const MetricsReader& a, const MetricsReader& b,
                                                  double tolerance, std::optional<MetricDifference>& beyond) {
  std::vector<MetricDifference> all;
  for (const Field& field : fields) {
    const std::optional<double> x = a.number(field.name), y = b.number(field.name);
    if (!x || !y || same_bits(*x, *y)) continue;  // evaluations may fall on other steps
    all.push_back({a.step(), field.name, cat(*x), cat(*y), relative_difference(*x, *y)});
    const bool covered = tolerance > 0 && !field.exact && all.back().relative <= tolerance;
    if (!covered && !beyond) beyond = all.back();
  }
  // A bad step has its reason as text, which names figures that may differ in their last digits.
  const std::string x = a.text("skipped"), y = b.text("skipped");
  if (x.empty() != y.empty()) {
    all.push_back({a.step(), "skipped", x.empty() ? "no" : x, y.empty() ? "no" : y,
                   std::numeric_limits<double>::infinity()});
    if (!beyond) beyond = all.back();
  }
  return all;
}

}  // namespace

MetricsComparison compare_metrics(const std::string& file_a, const std::string& file_b, double tolerance) {
  MetricsReader a(file_a), b(file_b);
  MetricsComparison result;
  bool more = a.next() && b.next();
  while (more) {
    if (a.step() != b.step()) {
      more = a.step() < b.step() ? a.next() : b.next();
      continue;
    }
    if (result.steps++ == 0) result.first_step = a.step();
    result.last_step = a.step();
    std::optional<MetricDifference> beyond;
    for (MetricDifference& d : differences_of_step(a, b, tolerance, beyond))
      if (!result.largest || d.relative > result.largest->relative) result.largest = std::move(d);
    result.differing += beyond.has_value();
    if (!result.first) result.first = beyond;
    more = a.next() && b.next();
  }
  return result;
}

}  // namespace jambalaya
