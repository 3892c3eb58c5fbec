#include "train/run/samples.h"

#include <fcntl.h>

#include <algorithm>
#include <filesystem>

#include "train/files.h"
#include "train/json.h"
#include "train/run/generation.h"
#include "train/run/journal.h"

namespace jambalaya {

std::vector<Sample> make_samples(Runtime& runtime, Jamba& jamba, const Tokenizer& tokenizer,
                                 const Config& config) {
  GenerationSettings settings{.sampling = {.temperature = config.log.sample_temperature},
                              .max_tokens = config.log.sample_tokens,
                              .choices = std::min(config.model.vocab_size, tokenizer.vocab_size())};
  std::vector<Sample> samples;
  for (const std::string& prompt : config.log.sample_prompts) {
    std::vector<int32_t> ids;
    if (config.model.bos_token_id >= 0) ids.push_back(int32_t(config.model.bos_token_id));
    const std::vector<uint32_t> before = tokenizer.encode(prompt);
    ids.insert(ids.end(), before.begin(), before.end());
    // Every prompt has random numbers of its own, and the same ones at every evaluation.
    settings.sampling.seed = config.run.seed + samples.size();
    const Continuations made = generate(runtime, jamba, config.train.precision, ids, settings);
    samples.push_back({prompt, tokenizer.decode_after(before, made.ids[0])});
  }
  return samples;
}

void append_samples(const std::string& path, int64_t step, const std::vector<Sample>& samples) {
  std::string lines;
  for (const Sample& sample : samples) {
    Json line = Json::make_object();
    line.set("step", step).set("prompt", sample.prompt).set("text", sample.text);
    lines += line.line() + "\n";
  }
  const FileDescriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (file.get() < 0) throw Error(Exit::io, cat(path, ": cannot be opened for writing: ", system_reason()));
  write_all(file, path, lines.data(), lines.size());
}

void cut_samples(const std::string& path, int64_t step) {
  if (!std::filesystem::exists(path)) return;
  const std::string all = read_small_file(path, int64_t(1) << 32);
  std::string_view rest = whole_lines(all);
  std::string kept;
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n') + 1);
    rest.remove_prefix(line.size());
    try {
      const Json json = parse_json(line, path);
      if (JsonReader(json, path, Exit::bad_input).integer("step") <= step) kept += line;
    } catch (const Error&) {  // damaged: no reason to refuse a resume
    }
  }
  if (kept != all) replace_file(path, kept);
}

}  // namespace jambalaya
