// Scores of a model: held-out text, and multiple-choice questions.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "data/loader.h"
#include "data/tokenizer.h"
#include "model/jamba.h"
#include "train/run/runtime.h"

namespace jambalaya {

struct HeldOutScore {
  double nats_per_token = 0;
  double bits_per_byte = 0;  ///< nats over all targets / ln 2 / bytes of the documents' texts
  int64_t documents = 0, targets = 0, bytes = 0;
};
/// Rows are shared out to the data ranks. Collective over the world; every rank returns the same.
HeldOutScore evaluate_held_out(Runtime& runtime, Jamba& jamba, const HeldOut& text);

/// One question: the answers are continuations of the prompt.
struct Question {
  std::string prompt;
  std::vector<std::string> choices;
  int64_t answer = 0;
};
/// Lines {"prompt": "...", "choices": ["...", ...], "answer": 0}. Error(bad_input) with file:line.
std::vector<Question> read_questions(const std::string& path);

struct ChoiceScore {
  int64_t questions = 0;
  double accuracy = 0;                                 ///< highest log-probability of the whole answer
  double accuracy_normalized = 0;                      ///< highest log-probability per byte of the answer
  std::vector<std::vector<double>> log_probabilities;  ///< per question and choice, nats
};
/// Data ranks take questions in turn. Collective over the world; every rank returns the same. The answer's
/// tokens are those by which encoding prompt + choice goes beyond encoding the prompt.
ChoiceScore score_questions(Runtime& runtime, Jamba& jamba, const Tokenizer& tokenizer,
                            const std::vector<Question>& questions);

}  // namespace jambalaya
