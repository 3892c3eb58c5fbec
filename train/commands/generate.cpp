// jambalaya generate
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "train/commands/commands.h"
#include "train/json.h"
#include "train/run/loaded_model.h"
#include "train/run/log.h"
#include "train/run/sampling.h"

namespace jambalaya {

namespace {

/// The prompt's text; a file named "-" is standard input.
std::string prompt_text(const GenerateOptions& o) {
  if (o.prompt_file.empty()) return o.prompt;
  std::ifstream file(o.prompt_file == "-" ? "/dev/stdin" : o.prompt_file, std::ios::binary);
  if (!file) throw Error(Exit::bad_input, cat(o.prompt_file, ": cannot be opened"));
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<int32_t> prompt_ids(const std::string& text, const LoadedModel& model) {
  std::vector<int32_t> ids;
  if (model.info.model.bos_token_id >= 0) ids.push_back(int32_t(model.info.model.bos_token_id));
  for (uint32_t id : model.need_tokenizer().encode(text)) ids.push_back(int32_t(id));
  if (ids.empty())
    throw Error(Exit::usage, "the prompt is empty and the model has no begin-of-text token: give a --prompt");
  return ids;
}

/// All samples at once: the same prompt in every slot, then one token a step for those not yet at their end.
class Generation {
 public:
  Generation(const GenerateOptions& o, const std::string& prompt, LoadedModel& model)
      : options_(o),
        model_(model),
        vocab_(model.info.model.vocab_size),
        choices_(std::min(vocab_, model.need_tokenizer().vocab_size())),
        prompt_(prompt_ids(prompt, model)),
        state_(model.info.model, model.precision, o.samples, int64_t(prompt_.size()) + o.max_tokens),
        logits_(size_t(o.samples * vocab_)),
        texts_(size_t(o.samples)) {}

  void run() {
    prefill();
    const SamplingOptions sampling{options_.temperature, options_.top_k, options_.top_p, options_.seed};
    std::vector<int64_t> lengths(texts_.size(), 1);
    for (int64_t i = 0; i < options_.max_tokens; i++) {
      std::vector<int32_t> next;
      for (size_t s = 0; s < texts_.size(); s++) {
        if (!lengths[s]) continue;
        int32_t id = sample_token(logits_.data() + int64_t(s) * vocab_, choices_, sampling, int64_t(s), i);
        if (id == model_.info.model.eos_token_id) {
          lengths[s] = 0;
          continue;
        }
        texts_[s].push_back(uint32_t(id));
        next.push_back(id);
      }
      if (next.empty() || i + 1 == options_.max_tokens) break;
      extend(next, lengths);
    }
  }

  const std::vector<std::vector<uint32_t>>& texts() const { return texts_; }
  const DecodeState& state() const { return state_; }
  int64_t prompt_tokens() const { return int64_t(prompt_.size()); }

 private:
  void prefill() {
    const int64_t n = int64_t(prompt_.size()), chunk = std::max<int64_t>(options_.prefill_chunk, 1);
    for (int64_t begin = 0; begin < n; begin += chunk) {
      std::vector<int32_t> ids;
      const int64_t length = std::min(chunk, n - begin);
      for (size_t s = 0; s < texts_.size(); s++)
        ids.insert(ids.end(), prompt_.begin() + begin, prompt_.begin() + begin + length);
      extend(ids, std::vector<int64_t>(texts_.size(), length));
    }
  }
  void extend(std::vector<int32_t>& ids, const std::vector<int64_t>& lengths) {
    model_.jamba->extend(model_.runtime->context(), state_, make_tensor(ids.data(), {int64_t(ids.size())}),
                         lengths, make_tensor(logits_.data(), {state_.sequences(), vocab_}));
  }

  const GenerateOptions& options_;
  LoadedModel& model_;
  int64_t vocab_;
  int64_t choices_;  ///< rows that the tokenizer knows: a vocabulary may be padded beyond it
  std::vector<int32_t> prompt_;
  DecodeState state_;
  std::vector<float> logits_;
  std::vector<std::vector<uint32_t>> texts_;
};

}  // namespace

int run_generate(const GenerateOptions& o) {
  LoadedModel model(o.checkpoint, o.precision, o.tokenizer, o.threads);
  auto start = std::chrono::steady_clock::now();
  const std::string prompt = prompt_text(o);
  Generation generation(o, prompt, model);
  generation.run();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  int64_t tokens = 0;
  Json samples = Json::make_array();
  for (const auto& ids : generation.texts()) {
    tokens += int64_t(ids.size());
    std::string text = model.need_tokenizer().decode(ids, true);
    if (!o.json) std::printf("%s%s\n", prompt.c_str(), text.c_str());
    Json sample = Json::make_object();
    Json id_list = Json::make_array();
    for (uint32_t id : ids) id_list.array.emplace_back(int64_t(id));
    sample.set("text", text).set("ids", std::move(id_list));
    samples.array.push_back(std::move(sample));
  }
  if (o.json) {
    Json answer = Json::make_object();
    answer.set("prompt", prompt)
        .set("prompt_tokens", generation.prompt_tokens())
        .set("samples", std::move(samples));
    answer.set("seconds", json_number(seconds))
        .set("kv_bytes", generation.state().kv_bytes())
        .set("recurrent_bytes", generation.state().recurrent_bytes());
    std::puts(answer.text().c_str());
  } else {
    log_info(cat(tokens, " tokens in ", seconds, " s from ", model.info.path));
  }
  return 0;
}

}  // namespace jambalaya
