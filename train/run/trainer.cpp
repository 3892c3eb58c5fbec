#include "train/run/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "data/dataset.h"
#include "data/loader.h"
#include "kernels/trace.h"
#include "model/flops.h"
#include "parallel/watchdog.h"
#include "train/files.h"
#include "train/run/agreement.h"
#include "train/run/bad_step.h"
#include "train/run/banner.h"
#include "train/run/batch_changes.h"
#include "train/run/console.h"
#include "train/run/copies.h"
#include "train/run/engine.h"
#include "train/run/environment.h"
#include "train/run/evaluation.h"
#include "train/run/local_batch.h"
#include "train/run/log.h"
#include "train/run/persistence.h"
#include "train/run/record.h"
#include "train/run/run_folder.h"
#include "train/run/schedule.h"
#include "train/run/signals.h"
#include "train/run/telemetry.h"
#include "train/run/tracer.h"

namespace jambalaya {

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

LoaderOptions loader_options(const Config& c, Mesh& mesh) {
  LoaderOptions o{.seed = c.run.seed, .sequence_length = c.data.sequence_length};
  o.rows = c.data.micro_batch * mesh.data().size();
  o.chunk = c.data.sequence_length;
  for (auto [from, length] : c.data.length_schedule) o.chunk = std::max(o.chunk, length);
  o.rank = mesh.data_rank();
  o.world = mesh.data().size();
  return o;
}

/// The data, the same on all ranks.
Dataset open_dataset(Communicator& world, const std::string& folder) {
  Dataset dataset(folder);
  check_agreement(world, data_facts(dataset, folder));
  return dataset;
}

constexpr int kMostSkips = 20;   // in a row; then the loss has left its window for good
constexpr int kMostRewinds = 3;  // then the run stops: the data or the settings are at fault, not chance

}  // namespace

struct Trainer::Impl {
  Impl(Runtime& r, const Config& c, const std::string& resume)
      : runtime(r),
        config(c),
        ctx(r.context()),
        mesh(r.mesh()),
        world(mesh.world()),
        data_ranks(mesh.data().size()),
        folder(world, c.run.folder),
        dataset(open_dataset(world, c.data.folder)),
        engine(mesh, ctx, c.model, c.train.precision, c.optimizer, c.train.bucket_mb << 20),
        loader(dataset.train(), loader_options(c, r.mesh())),
        detector(c.train.spike_factor),
        tracer(r, config) {
    if (dataset.manifest().vocab_size > c.model.vocab_size)
      throw Error(Exit::usage,
                  cat("data.folder = ", c.data.folder, " was encoded with ", dataset.manifest().vocab_size,
                      " ids, model.vocab_size = ", c.model.vocab_size,
                      " has no rows for all of them: set model.vocab_size to at least ",
                      dataset.manifest().vocab_size));
    // The config's own check cannot know how many ranks there are.
    const int64_t rows = c.data.micro_batch * data_ranks;
    if (c.data.global_batch % rows != 0)
      throw Error(Exit::usage,
                  cat("data.global_batch = ", c.data.global_batch, " is not a multiple of the ", rows,
                      " rows that ", data_ranks, data_ranks == 1 ? " data rank" : " data ranks",
                      " take at a time (data.micro_batch = ", c.data.micro_batch,
                      " each): set data.global_batch to a multiple of ", rows));
    jamba.recompute = c.train.recompute;
    engine.verify_every = c.train.verify_every;
    if (dataset.held_out().documents() > 0)
      held_out.emplace(dataset.held_out(), c.data.sequence_length, c.data.micro_batch * data_ranks,
                       c.log.evaluate_tokens);
    else
      log_warning(cat(
          c.data.folder,
          " has no held-out documents: bits per byte will not be measured (encode with --held-out 0.01)"));
    if (!c.log.sample_prompts.empty())
      tokenizer = Tokenizer::from_json(dataset.tokenizer_json(), c.data.folder + " (its tokenizer)");
    Watchdog::instance().set_folder(r.mesh().world(), c.run.folder);
    begin(resume);
  }

  // ---- start ----

  void begin(const std::string& resume) {
    if (std::optional<CheckpointInfo> from = folder.choose(resume)) {
      load(*from, true);
      last_saved = state.step;
      log_info(cat("continues from ", from->path, " at step ", state.step));
      if (runtime.lead())
        for (const std::string& warning : batch_changes(from->state, config, data_ranks))
          log_warning(warning);
    } else if (!config.train.branch_from.empty()) {
      branch(resolve_on_lead(world, config.train.branch_from));
    } else if (!config.train.init_from.empty()) {
      const CheckpointInfo info = resolve_on_lead(world, config.train.init_from);
      check_same_model(info, config.model);
      load_tensors(ctx, info, parameters, nullptr);
      engine.refresh();
      log_info(cat("starts from the weights of ", info.path));
      if (runtime.lead() && !info.state.tokenizer_json.empty() &&
          info.state.tokenizer_json != dataset.tokenizer_json())
        log_warning(cat(config.data.folder, " was encoded with another tokenizer than that of ", info.path,
                        ": ids mean other texts. Encode with ", info.path, "/tokenizer.json"));
    } else {
      parameters.initialize(config.run.seed, ctx.pool);
      engine.refresh();
    }
    if (runtime.lead()) {
      record =
          std::make_unique<RunRecord>(config, describe_environment(runtime, config.train.precision), state);
      replace_file(config.run.folder + "/config.yaml", to_yaml(config));
      replace_file(config.run.folder + "/tokenizer.json", dataset.tokenizer_json());
    }
  }

  /// A new run from another one's step: weights, moments and, on the same data, the place in it.
  void branch(const CheckpointInfo& info) {
    const bool same_data = LoaderState::parse(info.state.loader).fingerprint == dataset.train().fingerprint();
    load(info, same_data);
    state.metrics_bytes = 0;  // a log of its own
    state.seconds = 0;
    log_info(cat("branches from ", info.path, " at step ", state.step,
                 same_data ? ", at the same place in the data" : ", at the start of other data"));
  }

  void load(const CheckpointInfo& info, bool with_cursor) {
    check_same_model(info, config.model);
    load_tensors(ctx, info, parameters, &optimizer);
    engine.refresh();
    TrainState stored = info.state;
    optimizer.set_steps(stored.optimizer_steps);
    detector.restore(stored.loss_window);
    if (with_cursor)
      loader.restore(LoaderState::parse(stored.loader));
    else
      stored.tokens = state.tokens;
    state = stored;
  }

  // ---- one step ----

  struct Totals {
    int64_t counted = 0, tokens = 0, rows_crc = 0;
    double flops = 0;
  };

  int64_t accumulation() const { return accumulation_steps(config, data_ranks); }

  void set_length() {
    int64_t length = sequence_length_at(config.data, state.step);
    if (length == current_length) return;
    // Longer rows, fewer of them: the tokens of a step stay.
    int64_t rows = std::max<int64_t>(
        config.data.micro_batch * data_ranks * config.data.sequence_length / length, data_ranks);
    if (current_length || length != config.data.sequence_length) loader.set_shape(length, rows);
    current_length = length;
    current_rows = rows;
  }

  std::vector<HostBatch> fetch(Totals& totals) {
    TraceScope traced("data", "data");
    std::vector<HostBatch> batches;
    for (int64_t i = 0; i < accumulation(); i++) {
      batches.push_back(loader.next());
      const HostBatch& b = batches.back();
      totals.counted += b.counted;
      totals.rows_crc += crc_of_rows(b.ids, current_length);
      totals.flops += 3 * forward_flops(config.model, b.lengths).total();
    }
    totals.tokens = accumulation() * current_rows * current_length;
    return batches;
  }

  /// True when some rank was asked to stop.
  bool forward_backward(Totals& totals, StepReport& report) {
    Clock::time_point start = Clock::now();
    std::vector<HostBatch> batches = fetch(totals);
    report.data_wait = seconds_since(start);
    // Context and tensor ranks of one data rank have read the same batch.
    const int64_t readers = world.size() / data_ranks;
    int64_t agreed[3] = {totals.counted, wants_to_stop(), totals.rows_crc};
    world.all_reduce(make_tensor(agreed, {3}));
    totals.counted = agreed[0] / readers;
    report.rows_crc = agreed[2] / readers;
    if (agreed[1]) return true;  // before anything was changed; the batches are read again after a resume

    const StepLosses losses = engine.gradients(batches, totals.counted, current_rows * current_length);
    report.reduce_wait = engine.sync.reduce_wait_seconds() + engine.sync.take_gather_wait_seconds();
    mesh.data().all_reduce(make_tensor(&totals.flops, {1}));
    report.loss = losses.loss;
    report.aux_loss = losses.aux;
    report.router_z = losses.router_z;
    report.head_z = losses.head_z;
    report.activation = losses.activation;
    report.gradient_norm = losses.gradient_norm;
    return false;
  }

  void evaluate(StepReport& report) {
    if (!held_out) return;
    TraceScope traced("evaluation", "evaluation");
    HeldOutScore score = evaluate_held_out(runtime, jamba, *held_out);
    report.held_out_nats = score.nats_per_token;
    report.held_out_bits_per_byte = score.bits_per_byte;
  }

  void sample(int64_t step) {
    if (!tokenizer) return;
    TraceScope traced("samples", "evaluation");
    const std::vector<Sample> samples = make_samples(runtime, jamba, *tokenizer, config);
    if (record) record->samples(step, samples);
  }

  // ---- the loop ----

  Exit run() {
    tell_start(runtime, config, dataset.train().totals().tokens,
               accumulation() * config.data.micro_batch * data_ranks);
    run_start = segment_start = Clock::now();
    first_step = state.step;
    if (state.step >= config.train.steps)
      log_info(cat("the run is at step ", state.step, " of ", config.train.steps,
                   " already: raise train.steps to go on"));
    while (state.step < config.train.steps) {
      tracer.begin_step(engine.sync);
      const bool stop = step();
      tracer.end_step(engine.sync, stop || state.step >= config.train.steps);
      if (stop)
        return leave(stop_signal() ? "a signal asked for it"
                                   : "train.minutes have passed or another rank was asked to");
    }
    if (last_saved != state.step) save();
    if (record) record->end(state.step, "done");
    log_warnings_box();
    return Exit::ok;
  }

  /// Clocks and signals differ between ranks: one that wants to stop is enough (see forward_backward).
  bool wants_to_stop() const {
    return stop_signal() != 0 ||
           (config.train.minutes > 0 && seconds_since(run_start) > 60 * config.train.minutes);
  }

  /// One update. True when the run was asked to stop instead.
  bool step() {
    StepReport report;
    report.step = state.step + 1;
    TraceScope traced(trace::numbered("step", report.step), "step", "step", report.step);
    Watchdog::instance().set_step(report.step);
    report.steps = config.train.steps;
    report.lr = learning_rate(config.optimizer, state.step, config.train.steps);
    const bool report_now =
        report.step % config.log.every == 0 || report.step == 1 || report.step == config.train.steps;
    jamba.telemetry = report_now;
    set_length();
    const LoaderState before = loader.state();
    Clock::time_point start = Clock::now();
    Totals totals;
    if (forward_backward(totals, report)) {
      loader.restore(before);
      return true;
    }
    report.bad = detector.judge(report.loss, report.gradient_norm);
    if (report.bad.empty()) {
      engine.update(report.lr, report.gradient_norm, report.step);
      skips = 0;
    } else if (handle_bad_step(report, totals.tokens)) {
      return false;
    }
    state.step++;
    state.tokens += totals.tokens;
    finish_report(report, totals, start, report_now);
    if (config.checkpoint.every > 0 && state.step % config.checkpoint.every == 0) save();
    return false;
  }

  /// True when the run went back to a checkpoint. Throws under the policy "stop".
  bool handle_bad_step(StepReport& report, int64_t tokens) {
    const std::string what = cat("step ", report.step, ": ", report.bad);
    if (config.train.bad_step == BadStep::stop)
      throw Error(Exit::numerical, cat(what,
                                       "; stopped by train.bad_step = stop. Lower optimizer.lr, or set "
                                       "train.bad_step to skip or rewind"));
    if (config.train.bad_step == BadStep::skip) {
      if (++skips > kMostSkips)
        throw Error(Exit::numerical, cat(what, "; gave up after ", kMostSkips, " skipped steps in a row"));
      log_warning(what + ": update skipped");
      return false;
    }
    std::optional<CheckpointInfo> from = folder.newest();
    if (!from || ++rewinds > kMostRewinds)
      throw Error(Exit::numerical, cat(what, from ? cat("; gave up after ", kMostRewinds, " rewinds")
                                                  : "; there is no checkpoint to go back to"));
    // The data cursor stays where it is: the batches that led here are consumed and not read again.
    state.tokens += tokens;
    load(*from, false);
    if (record) record->rewind(state, report.step, what);
    log_warning(cat(what, ": back to step ", state.step, ", past the batches in between"));
    return true;
  }

  void finish_report(StepReport& report, const Totals& totals, Clock::time_point start, bool report_now) {
    report.tokens = state.tokens;
    report.ranks = world.size();
    report.epoch = loader.state().epoch;
    report.seconds = seconds_since(start);
    report.tokens_per_s = double(totals.tokens) / report.seconds;
    report.flops_per_s = totals.flops / report.seconds;
    if (report_now) report.layers = telemetry_of_all_ranks(jamba, mesh);
    jamba.telemetry = false;
    const int64_t every = config.log.evaluate_every;
    if (every > 0 && (report.step % every == 0 || report.step == config.train.steps)) {
      start = Clock::now();
      evaluate(report);
      sample(report.step);
      report.evaluation = seconds_since(start);
    }
    report.rss = resident_bytes();
    report.activation_bytes = jamba.saved_arena().high_water();
    report.scratch_bytes = runtime.scratch_high_water();
    if (ctx.accelerator) report.device_bytes = engine.arena_bytes() + report.scratch_bytes;
    report.elapsed =
        seconds_since(run_start) / double(std::max<int64_t>(state.step - first_step, 1)) * double(state.step);
    if (record) record->step(report);
    tell_step(report, report_now);
  }

  // ---- saving ----

  void save() {
    TraceScope traced("checkpoint", "checkpoint");
    Clock::time_point start = Clock::now();
    check_copies(parameters, world);
    state.seconds += seconds_since(segment_start);
    segment_start = Clock::now();
    state.loader = loader.state().to_json();
    state.optimizer_steps = optimizer.steps();
    state.loss_window = detector.window();
    state.config_yaml = to_yaml(config);
    state.tokenizer_json = dataset.tokenizer_json();
    state.rows_per_step = accumulation() * config.data.micro_batch * data_ranks;
    state.accumulation_steps = accumulation();
    state.layout = describe_fully(mesh.layout());
    state.metrics_bytes = record ? record->synced_metrics_bytes() : 0;
    world.broadcast(make_tensor(&state.metrics_bytes, {1}), 0);
    saved.push_back(save_checkpoint(world, folder.checkpoints(), boxes_to_write(parameters, &optimizer),
                                    state, config.model, false, [&] { engine.check_memory(); }));
    if (runtime.lead())
      prune_checkpoints(folder.checkpoints(), config.checkpoint.keep_last, config.checkpoint.keep_every,
                        saved);
    if (record) record->checkpoint(state.step, seconds_since(start));
    last_saved = state.step;
    log_debug(cat("saved ", saved.back(), " in ", seconds_since(start), " s"));
  }

  Exit leave(const std::string& why) {
    if (last_saved != state.step) save();
    if (record) record->end(state.step, cat("stopped because ", why));
    log_info(cat("stopped because ", why, "; checkpoint step ", state.step,
                 " is saved: continue with --resume auto"));
    log_warnings_box();
    return Exit::stopped_saved;
  }

  Runtime& runtime;
  const Config config;
  Context& ctx;
  Mesh& mesh;
  Communicator& world;
  const int data_ranks;
  RunFolder folder;
  Dataset dataset;
  Engine engine;
  Parameters& parameters = engine.parameters;
  Jamba& jamba = engine.jamba;
  Optimizer& optimizer = engine.optimizer;
  Loader loader;
  BadStepDetector detector;
  Tracer tracer;
  std::optional<HeldOut> held_out;
  std::unique_ptr<RunRecord> record;   ///< rank 0
  std::optional<Tokenizer> tokenizer;  ///< for samples
  TrainState state;
  std::vector<std::string> saved;              ///< checkpoints of this process
  Clock::time_point run_start, segment_start;  ///< segment: since the last save
  int64_t first_step = 0, last_saved = -1, current_length = 0, current_rows = 0;
  int rewinds = 0, skips = 0;
};

Trainer::Trainer(Runtime& runtime, const Config& config, const std::string& resume)
    : impl_(std::make_unique<Impl>(runtime, config, resume)) {}
Trainer::~Trainer() = default;
Exit Trainer::run() { return impl_->run(); }

}  // namespace jambalaya
