// jambalaya evaluate
#include <cstdio>

#include "data/dataset.h"
#include "train/commands/commands.h"
#include "train/json.h"
#include "train/run/evaluation.h"
#include "train/run/loaded_model.h"
#include "train/run/log.h"

namespace jambalaya {

namespace {

void evaluate_text(const EvaluateOptions& o, LoadedModel& model, Json& answer) {
  Dataset dataset(o.data);
  if (dataset.manifest().vocab_size > model.info.model.vocab_size)
    throw Error(Exit::usage, cat(o.data, " was encoded with ", dataset.manifest().vocab_size,
                                 " ids, the model has ", model.info.model.vocab_size));
  if (model.tokenizer && model.tokenizer->fingerprint() != dataset.manifest().tokenizer_fingerprint)
    throw Error(Exit::usage, cat(o.data,
                                 " was encoded with another tokenizer than the model's: its ids mean other "
                                 "texts; encode the text with the model's tokenizer.json"));
  HeldOut text(dataset.held_out(), o.sequence_length > 0 ? o.sequence_length : model.sequence_length,
               o.batch * model.runtime->mesh().data().size(), o.tokens);
  HeldOutScore score = evaluate_held_out(*model.runtime, *model.jamba, text);
  answer.set("held_out_nats_per_token", json_number(score.nats_per_token))
      .set("held_out_bits_per_byte", json_number(score.bits_per_byte));
  answer.set("documents", score.documents).set("targets", score.targets).set("bytes", score.bytes);
  if (model.runtime->lead() && !o.json)
    std::printf("held-out: %.4f bits/byte, %.4f nats/token over %lld documents, %lld targets, %lld bytes\n",
                score.bits_per_byte, score.nats_per_token, static_cast<long long>(score.documents),
                static_cast<long long>(score.targets), static_cast<long long>(score.bytes));
}

void evaluate_choices(const EvaluateOptions& o, LoadedModel& model, Json& answer) {
  ChoiceScore score =
      score_questions(*model.runtime, *model.jamba, model.need_tokenizer(), read_questions(o.choices));
  Json all = Json::make_array();
  for (const auto& question : score.log_probabilities) {
    Json one = Json::make_array();
    for (double p : question) one.array.push_back(json_number(p));
    all.array.push_back(std::move(one));
  }
  answer.set("questions", score.questions)
      .set("accuracy", json_number(score.accuracy))
      .set("accuracy_normalized", json_number(score.accuracy_normalized));
  answer.set("log_probabilities", std::move(all));
  if (model.runtime->lead() && !o.json)
    std::printf("multiple choice: accuracy %.4f, by log-probability per byte %.4f, %lld questions\n",
                score.accuracy, score.accuracy_normalized, static_cast<long long>(score.questions));
}

}  // namespace

int run_evaluate(const EvaluateOptions& o) {
  if (o.data.empty() && o.choices.empty())
    throw Error(Exit::usage,
                "evaluate: give --data FOLDER (held-out text) or --choices FILE.jsonl (questions), or both");
  LoadedModel model(o.checkpoint, o.precision, o.tokenizer, o.threads, o.set, o.device);
  Json answer = Json::make_object();
  answer.set("checkpoint", model.info.path).set("step", model.info.state.step);
  if (!o.data.empty()) evaluate_text(o, model, answer);
  if (!o.choices.empty()) evaluate_choices(o, model, answer);
  if (model.runtime->lead() && o.json) std::puts(answer.text().c_str());
  return 0;
}

}  // namespace jambalaya
