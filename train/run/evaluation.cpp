#include "train/run/evaluation.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numbers>

#include "train/json.h"

namespace jambalaya {

HeldOutScore evaluate_held_out(Runtime& runtime, Jamba& jamba, const HeldOut& text) {
  Communicator& ranks = runtime.mesh().data();
  double sums[kLossSums] = {};
  DocumentsBuffer documents;
  for (int64_t i = 0; i < text.batches(); i++) {
    HostBatch b = text.batch(i, ranks.rank(), ranks.size());
    const int64_t t = int64_t(b.ids.size());
    if (t == 0) continue;  // evaluation has no collective inside a batch
    documents.assign(b.lengths);
    jamba.evaluate(runtime.context(),
                   {make_tensor(b.ids.data(), {t}), make_tensor(b.targets.data(), {t}), documents.view()},
                   make_tensor(sums, {kLossSums}));
  }
  ranks.all_reduce(make_tensor(sums, {kLossSums}));
  HeldOutScore score{
      .documents = text.documents(), .targets = text.targets(), .bytes = int64_t(text.bytes())};
  score.nats_per_token = sums[kNll] / double(text.targets());
  score.bits_per_byte = sums[kNll] / std::numbers::ln2 / double(text.bytes());
  return score;
}

std::vector<Question> read_questions(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw Error(Exit::bad_input, cat(path, ": cannot be opened"));
  std::vector<Question> questions;
  std::string text;
  for (int line = 1; std::getline(file, text); line++) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string place = cat(path, ":", line);
    Json json = parse_json(text, place);
    JsonReader reader(json, place, Exit::bad_input);
    Question q{.prompt = reader.string("prompt"), .answer = reader.integer("answer")};
    for (const Json& choice : reader.at("choices", Json::Kind::array).array) {
      if (!choice.is(Json::Kind::string) || choice.string.empty())
        reader.fail("choices", "must be a list of non-empty strings");
      q.choices.push_back(choice.string);
    }
    if (q.answer < 0 || q.answer >= int64_t(q.choices.size()))
      reader.fail("answer", cat("must be the number of a choice, 0 to ", int64_t(q.choices.size()) - 1));
    questions.push_back(std::move(q));
  }
  if (questions.empty()) throw Error(Exit::bad_input, cat(path, ": holds no question"));
  return questions;
}

ChoiceScore score_questions(Context& ctx, Jamba& jamba, const Tokenizer& tokenizer,
                            const std::vector<Question>& questions) {
  ChoiceScore score{.questions = int64_t(questions.size())};
  int64_t right = 0, right_normalized = 0;
  for (const Question& q : questions) {
    std::vector<int32_t> ids, targets;
    std::vector<int64_t> lengths;
    const std::vector<uint32_t> prompt = tokenizer.encode(q.prompt);
    for (const std::string& choice : q.choices) {  // each choice a document of its own
      std::vector<uint32_t> whole = tokenizer.encode(q.prompt + choice);
      // Where the border falls inside a token, that token counts to the answer.
      size_t common = 0;
      while (common < prompt.size() && common + 1 < whole.size() && prompt[common] == whole[common]) common++;
      const bool bos = jamba.config().bos_token_id >= 0;
      if (bos) whole.insert(whole.begin(), uint32_t(jamba.config().bos_token_id));
      for (size_t i = 0; i < whole.size(); i++) {
        ids.push_back(int32_t(whole[i]));
        targets.push_back(i + 1 < whole.size() && i + !bos >= common ? int32_t(whole[i + 1]) : -100);
      }
      lengths.push_back(int64_t(whole.size()));
    }
    const int64_t t = int64_t(ids.size());
    std::vector<float> nll(ids.size());
    double sums[kLossSums] = {};
    DocumentsBuffer documents(lengths);
    jamba.evaluate(ctx, {make_tensor(ids.data(), {t}), make_tensor(targets.data(), {t}), documents.view()},
                   make_tensor(sums, {kLossSums}), make_tensor(nll.data(), {t}));
    std::vector<double> log_p, per_byte;
    size_t at = 0;
    for (size_t c = 0; c < q.choices.size(); c++) {
      double sum = 0;
      for (int64_t i = 0; i < lengths[c]; i++) sum -= double(nll[at++]);
      log_p.push_back(sum);
      per_byte.push_back(sum / double(q.choices[c].size()));
    }
    auto best = [](const std::vector<double>& v) { return std::max_element(v.begin(), v.end()) - v.begin(); };
    right += best(log_p) == q.answer;
    right_normalized += best(per_byte) == q.answer;
    score.log_probabilities.push_back(std::move(log_p));
  }
  score.accuracy = double(right) / double(questions.size());
  score.accuracy_normalized = double(right_normalized) / double(questions.size());
  return score;
}

}  // namespace jambalaya
