#include "train/run/evaluation.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numbers>

#include "kernels/transfer.h"
#include "train/json.h"
#include "train/run/local_batch.h"

namespace jambalaya {

HeldOutScore evaluate_held_out(Runtime& runtime, Jamba& jamba, const HeldOut& text) {
  Communicator& ranks = runtime.mesh().data();
  Context& ctx = runtime.context();
  const ArenaScope scope(*ctx.scratch);
  const Tensor sums_there = ctx.scratch->tensor(DType::f64, {kLossSums}, "loss sums");
  clear(ctx, sums_there);
  for (int64_t i = 0; i < text.batches(); i++) {
    HostBatch b = text.batch(i, ranks.rank(), ranks.size());
    const LocalBatch local(ctx, runtime.mesh(), b);  // with no rows left a rank still takes part
    jamba.evaluate(ctx, local.view(), sums_there);
  }
  std::vector<double> sums = to_host<double>(ctx, sums_there);
  runtime.mesh().tokens().all_reduce(make_tensor(sums.data(), {kLossSums}));
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

namespace {

/// A question's choices as documents of one batch; the tokens of the answers are its targets.
HostBatch batch_of(const Question& q, const Tokenizer& tokenizer, bool bos, int32_t bos_id) {
  HostBatch b;
  const std::vector<uint32_t> prompt = tokenizer.encode(q.prompt);
  for (const std::string& choice : q.choices) {
    std::vector<uint32_t> whole = tokenizer.encode(q.prompt + choice);
    // Where the border falls inside a token, that token counts to the answer.
    size_t common = 0;
    while (common < prompt.size() && common + 1 < whole.size() && prompt[common] == whole[common]) common++;
    if (bos) whole.insert(whole.begin(), uint32_t(bos_id));
    for (size_t i = 0; i < whole.size(); i++) {
      b.ids.push_back(int32_t(whole[i]));
      b.targets.push_back(i + 1 < whole.size() && i + !bos >= common ? int32_t(whole[i + 1]) : -100);
    }
    b.lengths.push_back(int64_t(whole.size()));
  }
  return b;
}

/// Log-probability of each choice, in nats, as far as this rank's context shard goes; none for an empty
/// batch, with which a rank takes part.
std::vector<double> log_probabilities(Runtime& runtime, Jamba& jamba, HostBatch b) {
  Context& ctx = runtime.context();
  const LocalBatch local(ctx, runtime.mesh(), b);
  const ArenaScope scope(*ctx.scratch);
  const Tensor nll_there = ctx.scratch->tensor(DType::f32, {local.tokens()}, "token losses"),
               ignored = ctx.scratch->tensor(DType::f64, {kLossSums}, "loss sums");
  clear(ctx, ignored);
  jamba.evaluate(ctx, local.view(), ignored, nll_there);
  const std::vector<float> nll = to_host<float>(ctx, nll_there);
  std::vector<double> log_p;
  int64_t begin = 0;  // of the choice, in the whole batch
  for (int64_t length : b.lengths) {
    const int64_t from = std::max(begin, local.first()),
                  to = std::min(begin + length, local.first() + local.tokens());
    double sum = 0;
    for (int64_t i = from; i < to; i++) sum -= double(nll[size_t(i - local.first())]);
    log_p.push_back(sum);
    begin += length;
  }
  return log_p;
}

int64_t best(const std::vector<double>& v) { return std::max_element(v.begin(), v.end()) - v.begin(); }

}  // namespace

ChoiceScore score_questions(Runtime& runtime, Jamba& jamba, const Tokenizer& tokenizer,
                            const std::vector<Question>& questions) {
  Communicator& ranks = runtime.mesh().data();
  const int32_t bos = int32_t(jamba.config().bos_token_id);
  ChoiceScore score{.questions = int64_t(questions.size())};
  for (const Question& q : questions) score.log_probabilities.emplace_back(q.choices.size(), 0.0);
  for (size_t first = 0; first < questions.size(); first += size_t(ranks.size())) {
    const size_t own = first + size_t(ranks.rank());
    const bool some = own < questions.size();
    std::vector<double> log_p = log_probabilities(
        runtime, jamba, some ? batch_of(questions[own], tokenizer, bos >= 0, bos) : HostBatch());
    if (some) score.log_probabilities[own] = std::move(log_p);
  }
  int64_t right = 0, right_normalized = 0;
  for (size_t i = 0; i < questions.size(); i++) {
    // Zeros but on one data rank, whose context ranks have a part each; equal on tensor ranks.
    std::vector<double>& log_p = score.log_probabilities[i];
    runtime.mesh().tokens().all_reduce(make_tensor(log_p.data(), {int64_t(log_p.size())}));
    std::vector<double> per_byte = log_p;
    for (size_t c = 0; c < per_byte.size(); c++) per_byte[c] /= double(questions[i].choices[c].size());
    right += best(log_p) == questions[i].answer;
    right_normalized += best(per_byte) == questions[i].answer;
  }
  score.accuracy = double(right) / double(questions.size());
  score.accuracy_normalized = double(right_normalized) / double(questions.size());
  return score;
}

}  // namespace jambalaya
