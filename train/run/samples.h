// Texts that the model makes of the same prompts as it learns (log.sample_prompts).
#pragma once
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "model/jamba.h"
#include "train/config.h"
#include "train/run/runtime.h"

namespace jambalaya {

struct Sample {
  std::string prompt, text;  ///< text: what the model added
};

/// One continuation of each prompt. The same weights give the same texts on any number of ranks, but for
/// rounding. Collective over the world; every rank returns the same.
std::vector<Sample> make_samples(Runtime& runtime, Jamba& jamba, const Tokenizer& tokenizer,
                                 const Config& config);

/// Appends lines {"step", "prompt", "text"} to the file. Error(io).
void append_samples(const std::string& path, int64_t step, const std::vector<Sample>& samples);
/// Takes out what lies behind `step`, and lines that cannot be read. Nothing when there is no file.
void cut_samples(const std::string& path, int64_t step);

}  // namespace jambalaya
