// jambalaya generate
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "train/commands/commands.h"
#include "train/json.h"
#include "train/run/generation.h"
#include "train/run/loaded_model.h"
#include "train/run/log.h"

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

}  // namespace

int run_generate(const GenerateOptions& o) {
  LoadedModel model(o.checkpoint, o.precision, o.tokenizer, o.threads, o.set, o.device);
  auto start = std::chrono::steady_clock::now();
  // Standard input is rank 0's.
  std::string prompt = model.runtime->lead() ? prompt_text(o) : "";
  broadcast_string(model.runtime->mesh().world(), prompt);
  const std::vector<int32_t> ids = prompt_ids(prompt, model);
  const Continuations made =
      generate(*model.runtime, *model.jamba, model.precision, ids,
               {.sampling = {o.temperature, o.top_k, o.top_p, o.seed},
                .samples = o.samples,
                .max_tokens = o.max_tokens,
                .prefill_chunk = o.prefill_chunk,
                .choices = std::min(model.info.model.vocab_size, model.need_tokenizer().vocab_size())});
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!model.runtime->lead()) return 0;
  const std::vector<uint32_t> before = model.need_tokenizer().encode(prompt);
  int64_t tokens = 0;
  Json samples = Json::make_array();
  for (const auto& sampled : made.ids) {
    tokens += int64_t(sampled.size());
    std::string text = model.need_tokenizer().decode_after(before, sampled);
    if (!o.json) std::printf("%s%s\n", prompt.c_str(), text.c_str());
    Json sample = Json::make_object();
    Json id_list = Json::make_array();
    for (uint32_t id : sampled) id_list.array.emplace_back(int64_t(id));
    sample.set("text", text).set("ids", std::move(id_list));
    samples.array.push_back(std::move(sample));
  }
  if (o.json) {
    Json answer = Json::make_object();
    answer.set("prompt", prompt).set("prompt_tokens", int64_t(ids.size())).set("samples", std::move(samples));
    answer.set("seconds", json_number(seconds))
        .set("kv_bytes", made.kv_bytes)
        .set("recurrent_bytes", made.recurrent_bytes);
    std::puts(answer.text().c_str());
  } else {
    log_info(cat(tokens, " tokens in ", seconds, " s from ", model.info.path));
  }
  return 0;
}

}  // namespace jambalaya
