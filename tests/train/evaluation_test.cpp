// Scores are what the model's own log-probabilities say, whatever way the text is laid out in batches.
#include "train/run/evaluation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "tests/support/model.h"
#include "tests/support/token_store.h"

namespace jambalaya {
namespace {

std::string message_of(const std::string& path) {
  try {
    read_questions(path);
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::bad_input) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "was read";
  return "";
}

TEST(ReadQuestions, lines_are_questions_and_blank_lines_are_not) {
  test::TemporaryFolder folder;
  const std::vector<Question> q = read_questions(folder.write(
      "q.jsonl",
      "{\"prompt\": \"a\\n\\u00e9\", \"choices\": [\" b\", \"c\"], \"answer\": 1}\n\n \t\r\n"
      "{\"answer\": 0, \"source\": \"more keys are welcome\", \"choices\": [\"d\"], \"prompt\": \"\"}\r\n"));
  ASSERT_EQ(q.size(), 2u);
  EXPECT_EQ(q[0].prompt, "a\n\u00e9");
  EXPECT_EQ(q[0].choices, (std::vector<std::string>{" b", "c"}));
  EXPECT_EQ(q[0].answer, 1);
  EXPECT_EQ(q[1].prompt, "");
  EXPECT_EQ(q[1].choices, (std::vector<std::string>{"d"}));
  EXPECT_EQ(q[1].answer, 0);
}

TEST(ReadQuestions, errors_name_file_line_and_key) {
  test::TemporaryFolder folder;
  const std::string good = "{\"prompt\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 1}\n\n";
  const std::pair<const char*, const char*> bad[] = {
      {"{\"prompt\": \"a\"", "JSON"},
      {"[1]", "object"},
      {"{\"choices\": [\"b\"], \"answer\": 0}", "prompt"},
      {"{\"prompt\": 3, \"choices\": [\"b\"], \"answer\": 0}", "prompt"},
      {"{\"prompt\": \"a\", \"answer\": 0}", "choices"},
      {"{\"prompt\": \"a\", \"choices\": \"b\", \"answer\": 0}", "choices"},
      {"{\"prompt\": \"a\", \"choices\": [\"b\", 4], \"answer\": 0}", "choices"},
      {"{\"prompt\": \"a\", \"choices\": [\"b\", \"\"], \"answer\": 0}", "choices"},
      {"{\"prompt\": \"a\", \"choices\": [], \"answer\": 0}", "answer"},
      {"{\"prompt\": \"a\", \"choices\": [\"b\"]}", "answer"},
      {"{\"prompt\": \"a\", \"choices\": [\"b\"], \"answer\": \"0\"}", "answer"},
      {"{\"prompt\": \"a\", \"choices\": [\"b\"], \"answer\": 0.5}", "answer"},
      {"{\"prompt\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 2}", "0 to 1"},
      {"{\"prompt\": \"a\", \"choices\": [\"b\"], \"answer\": -1}", "answer"},
      {"{\"prompt\": \"a\", \"prompt\": \"a\", \"choices\": [\"b\"], \"answer\": 0}", "twice"},
      {"{\"prompt\": \"\xff\", \"choices\": [\"b\"], \"answer\": 0}", "UTF-8"},
  };
  for (auto [line, part] : bad) {
    const std::string path = folder.write("q.jsonl", good + line + "\n" + good);
    const std::string message = message_of(path);
    EXPECT_EQ(message.rfind(path + ":3: ", 0), 0u) << message;  // the blank line counts
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
}

TEST(ReadQuestions, file_without_questions_or_no_file_is_an_error) {
  test::TemporaryFolder folder;
  for (const std::string& path :
       {folder.path("none"), folder.write("empty", ""), folder.write("blank", "\n \n")})
    EXPECT_EQ(message_of(path).rfind(path + ": ", 0), 0u);
}

/// A random model over the ids of a tokenizer.
ModelConfig model_for(int64_t vocabulary, int64_t bos = 1) {
  ModelConfig c = test::small_model();
  c.bos_token_id = bos;
  c.vocab_size = vocabulary;
  return c;
}

/// Natural-log probabilities of ids[i + 1] after ids[0..i], for each i, of one document by itself: a softmax
/// in f64 over the logits that evaluate() gives.
std::vector<double> log_probabilities(test::TestModel& model, const std::vector<int32_t>& ids) {
  test::TestBatch batch({int64_t(ids.size())}, 2, 1);
  batch.ids = ids;
  std::fill(batch.targets.begin(), batch.targets.end(), -100);
  const std::vector<float> logits = model.evaluate(batch).logits;
  const size_t v = size_t(model.config().vocab_size);
  std::vector<double> all;
  for (size_t i = 0; i + 1 < ids.size(); i++) {
    double sum = 0;
    for (size_t j = 0; j < v; j++) sum += std::exp(double(logits[i * v + j]));
    all.push_back(double(logits[i * v + size_t(ids[i + 1])]) - std::log(sum));
  }
  return all;
}

class ScoreQuestions : public testing::Test {
 protected:
  static Tokenizer load() {
    return Tokenizer::load(std::string(JAMBALAYA_SOURCE_DIR) + "/tests/goldens/tokenizer/tokenizer.json");
  }
  explicit ScoreQuestions(int64_t bos = 1)
      : tokenizer(load()), model(model_for(tokenizer.vocab_size(), bos)) {}
  ChoiceScore score(const std::vector<Question>& q) {
    const std::unique_ptr<Runtime> runtime = Runtime::single(1);
    return score_questions(*runtime, model.jamba, tokenizer, q);
  }
  /// Sum over the last `tokens` tokens of prompt + choice.
  double expected(const Question& q, size_t choice, size_t tokens) {
    std::vector<int32_t> ids;
    if (model.config().bos_token_id >= 0) ids.push_back(int32_t(model.config().bos_token_id));
    for (uint32_t id : tokenizer.encode(q.prompt + q.choices[choice])) ids.push_back(int32_t(id));
    const std::vector<double> log_p = log_probabilities(model, ids);
    double sum = 0;
    for (size_t i = log_p.size() - tokens; i < log_p.size(); i++) sum += log_p[i];
    return sum;
  }
  Tokenizer tokenizer;
  test::TestModel model;
};

TEST_F(ScoreQuestions, log_probability_is_that_of_the_answers_tokens_in_the_whole_text) {
  const std::vector<Question> questions = {
      {"The river runs to", {" the sea", " a very high mountain.", " it"}, 0},
      {"One", {" two"}, 0},
  };
  const ChoiceScore s = score(questions);
  EXPECT_EQ(s.questions, 2);
  ASSERT_EQ(s.log_probabilities.size(), 2u);
  for (size_t q = 0; q < 2; q++) {
    ASSERT_EQ(s.log_probabilities[q].size(), questions[q].choices.size());
    for (size_t c = 0; c < questions[q].choices.size(); c++) {
      // A blank begins a piece of its own: prompt and choice are encoded apart.
      const size_t tokens = tokenizer.encode(questions[q].choices[c]).size();
      ASSERT_EQ(tokenizer.encode(questions[q].prompt + questions[q].choices[c]).size(),
                tokenizer.encode(questions[q].prompt).size() + tokens);
      const double want = expected(questions[q], c, tokens);
      EXPECT_NEAR(s.log_probabilities[q][c], want, 1e-4 * std::abs(want)) << q << " " << c;
    }
  }
}

TEST_F(ScoreQuestions, empty_prompt_scores_the_whole_answer_after_the_bos) {
  const Question q{"", {"the sea", "x"}, 0};
  const ChoiceScore s = score({q});
  for (size_t c = 0; c < 2; c++) {
    const double want = expected(q, c, tokenizer.encode(q.choices[c]).size());
    EXPECT_NEAR(s.log_probabilities[0][c], want, 1e-4 * std::abs(want));
  }
}

TEST_F(ScoreQuestions, token_across_the_border_counts_to_the_answer) {
  // "the" is one token, so the prompt "t" is no beginning of "the": the whole token is the answer's. The
  // second answer goes on behind such a token.
  const std::vector<Question> questions = {{"t", {"he"}, 0}, {"One gr", {"eat part"}, 0}};
  ASSERT_EQ(tokenizer.encode("the").size(), 1u);
  ASSERT_EQ(tokenizer.encode("One great part").size(), tokenizer.encode("One").size() + 2);
  ASSERT_GT(tokenizer.encode("One gr").size(), tokenizer.encode("One").size());
  const ChoiceScore s = score(questions);
  for (size_t q = 0; q < 2; q++) {
    const double want = expected(questions[q], 0, q + 1);
    EXPECT_NEAR(s.log_probabilities[q][0], want, 1e-4 * std::abs(want)) << q;
  }
}

TEST_F(ScoreQuestions, accuracy_counts_highest_sum_and_highest_sum_per_byte) {
  Question q{"The river", {" particularly distinguished", " ran", " is"}, 0};
  const std::vector<double> log_p = score({q}).log_probabilities[0];
  const auto place = [](const std::vector<double>& v) {
    return std::max_element(v.begin(), v.end()) - v.begin();
  };
  std::vector<double> per_byte;
  for (size_t c = 0; c < 3; c++) per_byte.push_back(log_p[c] / double(q.choices[c].size()));
  const int64_t best = place(log_p), best_per_byte = place(per_byte);
  ASSERT_NE(best, best_per_byte) << "the answer of long tokens must win by the byte";
  std::vector<Question> questions(4, q);
  questions[0].answer = questions[1].answer = questions[2].answer = best;
  questions[3].answer = best_per_byte;
  const ChoiceScore s = score(questions);
  EXPECT_DOUBLE_EQ(s.accuracy, 0.75);
  EXPECT_DOUBLE_EQ(s.accuracy_normalized, 0.25);
}

class ScoreQuestionsWithoutBos : public ScoreQuestions {
 protected:
  ScoreQuestionsWithoutBos() : ScoreQuestions(-1) {}
};

TEST_F(ScoreQuestionsWithoutBos, first_token_of_the_text_has_no_probability) {
  const std::vector<Question> questions = {{"One", {" great part"}, 0}, {"", {"One great part"}, 0}};
  ASSERT_EQ(tokenizer.encode("One").size() + 2, tokenizer.encode("One great part").size());
  const ChoiceScore s = score(questions);
  const size_t tokens[] = {2, tokenizer.encode("One great part").size() - 1};
  for (size_t q = 0; q < 2; q++) {
    const double want = expected(questions[q], 0, tokens[q]);
    EXPECT_NEAR(s.log_probabilities[q][0], want, 1e-4 * std::abs(want)) << q;
  }
}

/// Made-up documents, a byte a token, all of them held out.
class EvaluateHeldOut : public testing::Test {
 protected:
  EvaluateHeldOut() : model(model_for(260)) {
    const std::string file = test::write_json_lines(folder, "text.jsonl", test::random_texts(25, 30, 4));
    encode_dataset({file}, folder.path("store"), test::byte_tokenizer(), test::encode_bytes,
                   {.held_out_share = 0.5}, 1);
    dataset.emplace(folder.path("store"));
  }
  HeldOutScore score(const HeldOut& text) {
    const std::unique_ptr<Runtime> runtime = Runtime::single(1);
    return evaluate_held_out(*runtime, model.jamba, text);
  }
  test::TemporaryFolder folder;
  test::TestModel model;
  std::optional<Dataset> dataset;
};

TEST_F(EvaluateHeldOut, bits_per_byte_are_the_nats_of_all_targets_over_the_bytes_of_the_texts) {
  const TokenSplit& split = dataset->held_out();
  ASSERT_GE(split.documents(), 5);
  double nats = 0;
  int64_t targets = 0, bytes = 0;
  for (int64_t d = 0; d < split.documents(); d++) {
    const std::vector<int32_t> ids = split.document(d);
    for (double log_p : log_probabilities(model, ids)) nats -= log_p;
    targets += int64_t(ids.size()) - 1;
    bytes += int64_t(ids.size()) - 2;  // neither bos nor eos is a byte
  }
  // Rows that hold every document whole.
  const HeldOutScore s = score(HeldOut(split, 100000, 1));
  EXPECT_EQ(s.documents, split.documents());
  EXPECT_EQ(s.targets, targets);
  EXPECT_EQ(s.bytes, bytes);
  EXPECT_NEAR(s.nats_per_token, nats / double(targets), 1e-5 * nats / double(targets));
  EXPECT_NEAR(s.bits_per_byte, nats / std::log(2.0) / double(bytes), 1e-5 * s.bits_per_byte);
}

TEST_F(EvaluateHeldOut, rows_cut_documents_but_lose_no_target) {
  const TokenSplit& split = dataset->held_out();
  const int64_t length = 16;
  // The documents one after the other, cut every 16 tokens: each piece is read by itself, and its last token
  // is still asked for the next one of the document.
  double nats = 0;
  int64_t at = 0, targets = 0, bytes = 0;
  for (int64_t d = 0; d < split.documents(); d++) {
    const std::vector<int32_t> ids = split.document(d);
    const int64_t n = int64_t(ids.size());
    for (int64_t begin = 0; begin < n;) {
      const int64_t end = std::min(n, begin + length - (at + begin) % length);
      const std::vector<int32_t> piece(ids.begin() + begin, ids.begin() + std::min(end + 1, n));
      for (double log_p : log_probabilities(model, piece)) nats -= log_p, targets++;
      begin = end;
    }
    at += n;
    bytes += n - 2;
  }
  for (int64_t rows : {1, 3, 1000}) {
    const HeldOutScore s = score(HeldOut(split, length, rows));
    EXPECT_EQ(s.targets, targets) << rows;
    EXPECT_EQ(s.bytes, bytes) << rows;
    EXPECT_NEAR(s.nats_per_token, nats / double(targets), 1e-5 * nats / double(targets)) << rows;
    EXPECT_NEAR(s.bits_per_byte, nats / std::log(2.0) / double(bytes), 1e-5 * s.bits_per_byte) << rows;
  }
}

TEST_F(EvaluateHeldOut, limit_takes_fewer_documents_and_counts_those_alone) {
  const TokenSplit& split = dataset->held_out();
  const HeldOut few(split, 32, 2, 40);
  const HeldOutScore s = score(few);
  EXPECT_LT(s.documents, split.documents());
  EXPECT_GE(s.documents, 1);
  EXPECT_EQ(s.bytes, s.targets - s.documents);  // a byte a token, and an eos for each document
  EXPECT_NEAR(s.bits_per_byte * std::log(2.0) * double(s.bytes), s.nats_per_token * double(s.targets), 1e-6);
}

}  // namespace
}  // namespace jambalaya
