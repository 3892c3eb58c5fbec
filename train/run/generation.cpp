#include "train/run/generation.h"

#include <algorithm>

#include "kernels/transfer.h"

namespace jambalaya {

namespace {

/// The samples of one data rank: the same prompt in every slot, then one token a step for those not yet at
/// their end. Ranks whose samples have ended go along with no tokens, for experts lie on all ranks.
class Generation {
 public:
  Generation(Runtime& runtime, Jamba& jamba, Precision precision, const std::vector<int32_t>& prompt,
             const GenerationSettings& settings)
      : runtime_(runtime),
        data_(runtime.mesh().data()),
        jamba_(jamba),
        settings_(settings),
        prompt_(prompt),
        first_(settings.samples * data_.rank() / data_.size()),
        slots_(settings.samples * (data_.rank() + 1) / data_.size() - first_),
        state_(jamba.config(), precision, slots_, int64_t(prompt.size()) + settings.max_tokens,
               runtime.mesh().tensor().size(), runtime.context().accelerator),
        logits_(size_t(slots_ * vocab())),
        ids_(size_t(slots_)) {}

  void run() {
    prefill();
    std::vector<int64_t> lengths(ids_.size(), 1);
    for (int64_t i = 0; i < settings_.max_tokens; i++) {
      std::vector<int32_t> next = draw(i, lengths);
      if (i + 1 == settings_.max_tokens || !any(!next.empty())) break;
      extend(next, lengths);
    }
  }

  Continuations collect() {
    Continuations all;
    int64_t bytes[2] = {state_.kv_bytes(), state_.recurrent_bytes()};
    runtime_.mesh().world().all_reduce(make_tensor(bytes, {2}));
    all.kv_bytes = bytes[0];
    all.recurrent_bytes = bytes[1];
    // Every sample's length and ids; those of other ranks are zero here, so that the sum is all of them.
    const int64_t samples = settings_.samples, width = settings_.max_tokens + 1;
    std::vector<int32_t> table(size_t(samples * width), 0);
    for (size_t s = 0; s < ids_.size(); s++) {
      int32_t* row = &table[(size_t(first_) + s) * size_t(width)];
      row[0] = int32_t(ids_[s].size());
      std::copy(ids_[s].begin(), ids_[s].end(), row + 1);
    }
    data_.all_reduce(make_tensor(table.data(), {samples, width}));
    for (int64_t s = 0; s < samples; s++) {
      const int32_t* row = &table[size_t(s * width)];
      all.ids.emplace_back(row + 1, row + 1 + row[0]);
    }
    return all;
  }

 private:
  int64_t vocab() const { return jamba_.config().vocab_size; }

  /// The next token of every sample that goes on; sets the length of those that end to 0.
  std::vector<int32_t> draw(int64_t position, std::vector<int64_t>& lengths) {
    std::vector<int32_t> next;
    for (size_t s = 0; s < ids_.size(); s++) {
      if (!lengths[s]) continue;
      const int32_t id = sample_token(logits_.data() + int64_t(s) * vocab(), settings_.choices,
                                      settings_.sampling, first_ + int64_t(s), position);
      if (id == jamba_.config().eos_token_id) {
        lengths[s] = 0;
        continue;
      }
      ids_[s].push_back(id);
      next.push_back(id);
    }
    return next;
  }

  /// Whether it is so on any data rank.
  bool any(bool here) {
    uint8_t flag = here;
    data_.all_reduce(make_tensor(&flag, {1}), Reduce::max);
    return flag;
  }

  void prefill() {
    const int64_t n = int64_t(prompt_.size()), chunk = std::max<int64_t>(settings_.prefill_chunk, 1);
    for (int64_t begin = 0; begin < n; begin += chunk) {
      std::vector<int32_t> ids;
      const int64_t length = std::min(chunk, n - begin);
      for (size_t s = 0; s < ids_.size(); s++)
        ids.insert(ids.end(), prompt_.begin() + begin, prompt_.begin() + begin + length);
      extend(ids, std::vector<int64_t>(ids_.size(), length));
    }
  }
  void extend(std::vector<int32_t>& ids, const std::vector<int64_t>& lengths) {
    Context& ctx = runtime_.context();
    const ArenaScope scope(*ctx.scratch);
    const Tensor logits = ctx.scratch->tensor(DType::f32, {slots_, vocab()}, "logits of the last tokens");
    jamba_.extend(ctx, state_, to_device(ctx, make_tensor(ids.data(), {int64_t(ids.size())}), "ids"), lengths,
                  logits);
    logits_ = to_host<float>(ctx, logits);  // the next token is drawn on the host: one wait a token
  }

  Runtime& runtime_;
  Communicator& data_;
  Jamba& jamba_;
  const GenerationSettings& settings_;
  const std::vector<int32_t>& prompt_;
  const int64_t first_, slots_;  ///< this data rank's samples
  DecodeState state_;
  std::vector<float> logits_;
  std::vector<std::vector<int32_t>> ids_;
};

}  // namespace

Continuations generate(Runtime& runtime, Jamba& jamba, Precision precision,
                       const std::vector<int32_t>& prompt, const GenerationSettings& settings) {
  if (runtime.mesh().layout().context > 1)
    throw Error(Exit::layout,
                cat("parallel.context=", runtime.mesh().layout().context,
                    ": generation computes single tokens, in which context ranks have no share; "
                    "use parallel.tensor, parallel.expert or parallel.data instead"));
  JAMBALAYA_CHECK(!prompt.empty());
  Generation generation(runtime, jamba, precision, prompt, settings);
  generation.run();
  return generation.collect();
}

}  // namespace jambalaya
