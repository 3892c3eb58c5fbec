#include "train/interop/golden.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "kernels/transfer.h"
#include "model/gather_tensor.h"
#include "train/files.h"
#include "train/interop/huggingface.h"
#include "train/interop/safetensors.h"
#include "train/json.h"
#include "train/run/engine.h"
#include "train/run/local_batch.h"

namespace jambalaya {

namespace {

/// Rows of tokens shared out to data ranks, each row a document.
struct Rows {
  HostBatch batch;                           ///< this data rank's rows
  int64_t first = 0, count = 0, length = 0;  ///< likewise
  int64_t counted = 0, tokens = 0;           ///< of all rows

  /// ids, labels [rows, length]; the label of position t is compared with the logits of t - 1.
  Rows(const std::vector<int64_t>& all_ids, const std::vector<int64_t>& labels, int64_t rows, int64_t width,
       int rank, int ranks)
      : length(width), tokens(rows * width) {
    first = rows * rank / ranks;
    count = rows * (rank + 1) / ranks - first;
    for (int64_t i = 0; i < tokens; i++) {
      int64_t target = (i + 1) % width ? labels[size_t(i + 1)] : -100;
      counted += target >= 0;
      if (i / width < first || i / width >= first + count) continue;
      batch.ids.push_back(int32_t(all_ids[size_t(i)]));
      batch.targets.push_back(int32_t(target));
      batch.counted += target >= 0;
    }
    batch.lengths.assign(size_t(count), width);
  }
};

struct Error2 {  // sums for a relative L2 error
  double difference = 0, reference = 0;
  void add(double ours, double theirs) {
    difference += (ours - theirs) * (ours - theirs);
    reference += theirs * theirs;
  }
  /// A reference of zeros (an expert that nobody chose) must be met exactly.
  double relative() const { return difference == 0 ? 0 : std::sqrt(difference / std::max(reference, 1e-60)); }
};

/// The larger one; NaN stays, so that it never passes.
double worst(double a, double b) { return std::isnan(b) || b > a ? b : a; }

const SafeTensor& need(const SafeTensorsFile& file, const std::string& name) {
  const SafeTensor* t = file.find(name);
  if (!t) throw Error(Exit::bad_input, cat(file.path(), ": tensor '", name, "' is missing"));
  return *t;
}

/// The recorded courses of training were made with these settings.
const OptimizerSection kTrajectory{
    .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1.0};

class Comparison {
 public:
  Comparison(Runtime& runtime, std::string folder, const ModelConfig& model, Precision precision,
             Recompute recompute, const GoldenTolerances& tolerances)
      : runtime_(runtime),
        folder_(std::move(folder)),
        model_(model),
        precision_(precision),
        tolerances_(tolerances),
        engine_(runtime.mesh(), runtime.context(), model, precision, kTrajectory, int64_t(1) << 25),
        names_(hf_tensors(model, engine_.parameters.table())) {
    engine_.jamba.recompute = recompute;
    // By row, so that one whole tensor at a time is at hand.
    std::stable_sort(names_.begin(), names_.end(),
                     [](const HfTensor& a, const HfTensor& b) { return a.row < b.row; });
    load();
  }

  GoldenResult run() {
    compare_forward_and_backward();
    if (std::filesystem::exists(folder_ + "/trajectory.json")) follow_trajectory();
    return std::move(result_);
  }

 private:
  void load() {
    import_weights(folder_, engine_.parameters);
    engine_.refresh();
  }
  bool bf16() const { return precision_ == Precision::bf16; }
  Communicator& ranks() { return runtime_.mesh().data(); }
  Communicator& world() { return runtime_.mesh().world(); }
  void add(std::string what, const char* measure, double error, double tolerance) {
    result_.measured.push_back({std::move(what), measure, error, tolerance});
  }

  StepLosses step(const Rows& rows) {
    std::vector<HostBatch> batches{rows.batch};
    return engine_.gradients(batches, rows.counted, rows.tokens);
  }

  void compare_forward_and_backward() {
    SafeTensorsFile expected(folder_ + "/expected.safetensors");
    const SafeTensor& ids = need(expected, "input_ids");
    if (ids.shape.size() != 2)
      throw Error(Exit::bad_input, cat(expected.path(), ": input_ids must be [rows, tokens]"));
    Rows rows(expected.read_i64(ids), expected.read_i64(need(expected, "labels")), ids.shape[0], ids.shape[1],
              ranks().rank(), ranks().size());
    compare_logits(expected, rows);
    const StepLosses losses = step(rows);
    add("loss", "abs", std::abs(losses.objective - expected.read_f64(need(expected, "loss")).at(0)),
        tolerances_.loss);
    if (expected.find("aux_loss"))
      add("aux_loss", "abs", std::abs(losses.aux - expected.read_f64(need(expected, "aux_loss")).at(0)),
          tolerances_.aux);
    // scripts/compare_transformers.py --record leaves them out: they are as large as the model.
    if (std::filesystem::exists(folder_ + "/gradients.safetensors")) compare_gradients();
  }

  void compare_logits(const SafeTensorsFile& expected, const Rows& rows) {
    HostBatch batch = rows.batch;
    Context& ctx = runtime_.context();
    const LocalBatch local(ctx, runtime_.mesh(), batch);
    const int64_t t = local.tokens(), v = model_.vocab_size;
    const ArenaScope scope(*ctx.scratch);
    const Tensor logits = ctx.scratch->tensor(DType::f32, {t, v}, "logits to compare"),
                 ignored = ctx.scratch->tensor(DType::f64, {kLossSums}, "losses to compare");
    clear(ctx, ignored);
    engine_.jamba.evaluate(ctx, local.view(), ignored, {}, {}, logits);
    const std::vector<float> ours = to_host<float>(ctx, logits);
    std::vector<double> theirs = expected.read_f64(need(expected, "logits"));
    double largest = 0;
    Error2 l2;
    for (size_t i = 0; i < ours.size(); i++) {
      double reference = theirs.at(size_t((rows.first * rows.length + local.first()) * v) + i);
      double error = std::abs(double(ours[i]) - reference);
      largest = worst(largest, error);
      l2.add(double(ours[i]), reference);
    }
    Communicator& tokens = runtime_.mesh().tokens();  // tensor ranks have the same logits
    tokens.all_reduce(make_tensor(&largest, {1}), Reduce::max);
    tokens.all_reduce(make_tensor(&l2.difference, {1}));
    tokens.all_reduce(make_tensor(&l2.reference, {1}));
    if (bf16())
      add("logits", "relative L2", l2.relative(), tolerances_.logits);
    else
      add("logits", "max abs", largest, tolerances_.logits);
  }

  /// Our whole tensor, of all ranks, as the Hugging Face tensor. Valid until the next call.
  Tensor whole(const Tensor& owned, const HfTensor& hf) {
    if (gathered_row_ != hf.row)
      gathered_ = gather_tensor(engine_.parameters, owned, gathered_row_ = hf.row, world());
    const std::vector<int64_t>& shape = engine_.parameters.table()[size_t(hf.row)].shape;
    Tensor row = make_tensor(gathered_.data(), {int64_t(gathered_.size())});
    row.rank = int(shape.size());
    std::copy(shape.begin(), shape.end(), row.shape.begin());
    row.row_stride = row.columns();
    return (hf.expert >= 0 ? row.at(hf.expert) : row).slice_rows(hf.begin, hf.end);
  }

  void compare_gradients() {
    gathered_row_ = -1;
    SafeTensorsFile expected(folder_ + "/gradients.safetensors");
    for (const HfTensor& hf : names_) {
      Tensor ours = whole(engine_.parameters.owned_gradient(), hf);
      std::vector<float> theirs = expected.read_f32(need(expected, hf.hf_name));
      JAMBALAYA_CHECK(int64_t(theirs.size()) == ours.numel(), hf.hf_name, ": ", theirs.size(),
                      " numbers for ", ours.describe());
      Error2 l2;
      for (size_t i = 0; i < theirs.size(); i++) l2.add(double(ours.ptr<float>()[i]), double(theirs[i]));
      add("gradient " + hf.hf_name, "relative L2", l2.relative(), tolerances_.gradient);
    }
    if (expected.tensors().size() != names_.size())
      throw Error(Exit::bad_input, cat(expected.path(), ": holds ", expected.tensors().size(),
                                       " gradients, the model has ", names_.size(), " tensors"));
  }

  void follow_trajectory() {
    load();
    const std::string path = folder_ + "/trajectory.json";
    Json json = parse_json(read_small_file(path, 64 << 20), path);
    SafeTensorsFile file(folder_ + "/trajectory.safetensors");
    const SafeTensor& batches = need(file, "batches");
    std::vector<int64_t> ids = file.read_i64(batches);
    auto numbers = [&](const char* key) {
      return JsonReader(json, path, Exit::bad_input).at(key, Json::Kind::array).array;
    };
    std::vector<Json> rates = numbers("learning_rates"), losses = numbers("losses"),
                      norms = numbers("gradient_norms");
    double loss_error = 0, norm_error = 0;
    const int64_t steps = batches.shape.at(0), size = batches.shape.at(1) * batches.shape.at(2);
    for (int64_t s = 0; s < steps; s++) {
      std::vector<int64_t> now(ids.begin() + s * size, ids.begin() + (s + 1) * size);
      Rows rows(now, now, batches.shape[1], batches.shape[2], ranks().rank(), ranks().size());
      const StepLosses figures = step(rows);
      const double loss = figures.objective, norm = figures.gradient_norm;
      engine_.update(rates.at(size_t(s)).number, norm);
      loss_error = worst(loss_error, std::abs(loss - losses.at(size_t(s)).number));
      norm_error = worst(norm_error, std::abs(norm / norms.at(size_t(s)).number - 1));
    }
    add("trajectory losses", "max abs", loss_error, tolerances_.trajectory);
    add("trajectory gradient norms", "max relative", norm_error, tolerances_.gradient_norms);
    compare_final_norms(JsonReader(json, path, Exit::bad_input).at("final_norms", Json::Kind::object));
  }

  void compare_final_norms(const Json& expected) {
    double largest = 0;
    gathered_row_ = -1;
    for (const HfTensor& hf : names_) {
      const Json* theirs = expected.find(hf.hf_name);
      if (!theirs)
        throw Error(Exit::bad_input, cat(folder_, "/trajectory.json: final_norms has no ", hf.hf_name));
      Tensor ours = whole(engine_.parameters.owned_master(), hf);
      double squares = 0;
      for (int64_t i = 0; i < ours.numel(); i++)
        squares += double(ours.ptr<float>()[i]) * double(ours.ptr<float>()[i]);
      largest = worst(largest, std::abs(std::sqrt(squares) / theirs->number - 1));
    }
    add("trajectory final norms", "max relative", largest, tolerances_.final_norms);
  }

  Runtime& runtime_;
  std::string folder_;
  ModelConfig model_;
  Precision precision_;
  GoldenTolerances tolerances_;
  Engine engine_;
  std::vector<HfTensor> names_;
  std::vector<float> gathered_;
  int gathered_row_ = -1;
  GoldenResult result_;
};

}  // namespace

bool GoldenResult::passed() const {
  return !measured.empty() &&
         std::all_of(measured.begin(), measured.end(), [](const Measured& m) { return m.passed(); });
}

GoldenTolerances GoldenTolerances::of(Precision precision) {
  // bf16: the reference library in bf16 is itself 1.2 to 4.3 % away in its logits, with routing flips.
  if (precision == Precision::bf16)
    return {.logits = 0.08,
            .loss = 2e-2,
            .aux = 5e-2,
            .gradient = 0.5,
            .trajectory = 5e-2,
            .gradient_norms = 0.25,
            .final_norms = 1e-2};
  return {.logits = 5e-5,
          .loss = 1e-5,
          .aux = 1e-5,
          .gradient = 3e-4,
          .trajectory = 2e-4,
          .gradient_norms = 2e-3,
          .final_norms = 1e-4};
}

GoldenResult compare_golden(Runtime& runtime, const std::string& folder, const ModelConfig& model,
                            Precision precision, Recompute recompute, const GoldenTolerances& tolerances) {
  return Comparison(runtime, folder, model, precision, recompute, tolerances).run();
}

}  // namespace jambalaya
