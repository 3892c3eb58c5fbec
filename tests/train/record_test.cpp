// What a run writes down beside its steps: the journal, which outlives resumes, and samples, which change
// nothing of the run.
#include "train/run/record.h"

#include <gtest/gtest.h>

#include "data/bpe_train.h"
#include "tests/support/training_run.h"

namespace jambalaya {
namespace {

using test::metrics;
using test::train;

std::vector<Json> lines_of(const std::string& path) {
  std::istringstream file(test::read_file(path));
  std::vector<Json> all;
  for (std::string line; std::getline(file, line);) all.push_back(parse_json(line, path));
  return all;
}
std::string word(const Json& line, const char* key) { return line.find(key) ? line.find(key)->string : ""; }
int64_t number(const Json& line, const char* key) { return line.find(key) ? line.find(key)->integer : -1; }

class Record : public testing::Test {
 protected:
  void SetUp() override {
    data_ = make_store();
    config_ = config("run");
  }
  /// Samples need a real tokenizer: one of bytes alone.
  std::string make_store() const {
    const std::vector<std::string> texts = test::random_texts(100, 60, 1);
    const std::string file = test::write_json_lines(folder_, "texts.jsonl", texts),
                      store = folder_.path("data");
    ThreadPool pool(1);
    BpeTrainer trainer({.vocab_size = 260}, pool);
    for (const std::string& text : texts) trainer.add_text(text, file);
    const Tokenizer tokenizer = Tokenizer::from_model(trainer.finish());
    const TokenizerRecord record{.json = tokenizer.json(),
                                 .fingerprint = tokenizer.fingerprint(),
                                 .vocab_size = tokenizer.vocab_size(),
                                 .bos = int32_t(tokenizer.bos()),
                                 .eos = int32_t(tokenizer.eos()),
                                 .pad = int32_t(tokenizer.pad())};
    const auto encode = [&](std::string_view text, std::vector<int32_t>& ids) {
      for (uint32_t id : tokenizer.encode(text)) ids.push_back(int32_t(id));
    };
    encode_dataset({file}, store, record, encode, {.held_out_share = 0.1}, 1);
    return store;
  }
  Config config(const std::string& name) { return test::small_run(folder_.path(name), data_); }
  std::string path(const char* name) const { return config_.run.folder + "/" + name; }
  void append(const char* name, const std::string& text) const {
    std::ofstream(path(name), std::ios::app) << text;
  }
  /// "start 0, checkpoint 4, ..."
  std::string told() const {
    std::string text;
    for (const Json& line : lines_of(path("journal.jsonl"))) {
      EXPECT_GT(line.find("time")->number, 1.7e9);
      text += cat(text.empty() ? "" : ", ", word(line, "event"), " ", number(line, "step"));
    }
    return text;
  }
  test::TemporaryFolder folder_;
  std::string data_;
  Config config_;
};

TEST_F(Record, journal_tells_of_starts_checkpoints_and_the_end) {
  ASSERT_EQ(train(config_), Exit::ok);
  EXPECT_EQ(told(), "start 0, checkpoint 4, checkpoint 8, checkpoint 12, end 12");
  const std::vector<Json> lines = lines_of(path("journal.jsonl"));
  EXPECT_EQ(number(lines[0], "redone_steps"), -1);
  const Json* environment = lines[0].find("environment");
  ASSERT_TRUE(environment);
  EXPECT_EQ(number(*environment, "ranks"), 1);
  for (const char* key : {"version", "layout", "hosts", "device", "processor", "hdf5"})
    EXPECT_NE(word(*environment, key), "") << key;
  for (size_t i = 1; i < 4; i++) EXPECT_GT(lines[i].find("seconds")->number, 0);
}

TEST_F(Record, journal_keeps_what_a_resume_cuts_from_the_metrics) {
  ASSERT_EQ(train(config_), Exit::ok);
  std::filesystem::remove_all(test::checkpoint_path(config_.run.folder, 12));
  append("journal.jsonl", "{\"event\": \"che");
  ASSERT_EQ(train(config_), Exit::ok);
  EXPECT_EQ(told(),
            "start 0, checkpoint 4, checkpoint 8, checkpoint 12, end 12, start 8, checkpoint 12, end 12");
  const Json start = lines_of(path("journal.jsonl"))[5];
  EXPECT_EQ(number(start, "redone_steps"), 4);
  EXPECT_GT(start.find("redone_s")->number, 0);
  EXPECT_LE(start.find("previous_until")->number, start.find("time")->number);
}

TEST_F(Record, samples_change_nothing_of_the_run) {
  ASSERT_EQ(train(config_), Exit::ok);
  const std::vector<std::string> without = metrics(config_.run.folder);
  const test::Tensors tensors = test::tensors_of(config_.run.folder, 12);
  for (double temperature : {0.0, 1.0}) {
    config_ = config(cat("sampled-", temperature));
    config_.log.sample_prompts = {"abc", "x"};
    config_.log.sample_tokens = 9;
    config_.log.sample_temperature = temperature;
    ASSERT_EQ(train(config_), Exit::ok);
    EXPECT_EQ(metrics(config_.run.folder), without);
    EXPECT_EQ(test::difference(test::tensors_of(config_.run.folder, 12), tensors), "");
    const std::vector<Json> lines = lines_of(path("samples.jsonl"));
    ASSERT_EQ(lines.size(), 6u);  // two prompts at steps 5, 10 and 12
    for (size_t i = 0; i < 6; i++) {
      EXPECT_EQ(number(lines[i], "step"), i < 2 ? 5 : i < 4 ? 10 : 12);
      EXPECT_EQ(word(lines[i], "prompt"), i % 2 ? "x" : "abc");
    }
  }
}

TEST_F(Record, continued_run_has_the_samples_of_the_undisturbed_one) {
  config_.log.sample_prompts = {"abc"};
  config_.log.sample_temperature = 1;
  ASSERT_EQ(train(config_), Exit::ok);
  const std::string whole = test::read_file(path("samples.jsonl"));
  std::filesystem::remove_all(test::checkpoint_path(config_.run.folder, 12));
  append("samples.jsonl", "{\"step\": 3");  // torn by the end of the job
  ASSERT_EQ(train(config_), Exit::ok);
  EXPECT_EQ(test::read_file(path("samples.jsonl")), whole);
}

TEST_F(Record, more_tokens_go_on_where_fewer_end) {
  config_.log.sample_prompts = {"abc"};
  config_.log.sample_tokens = 6;
  ASSERT_EQ(train(config_), Exit::ok);
  const std::string shorter = word(lines_of(path("samples.jsonl")).back(), "text");
  config_ = config("longer");
  config_.log.sample_prompts = {"abc"};
  config_.log.sample_tokens = 12;
  ASSERT_EQ(train(config_), Exit::ok);
  const std::string longer = word(lines_of(path("samples.jsonl")).back(), "text");
  EXPECT_TRUE(longer.starts_with(shorter)) << shorter << " / " << longer;
}

TEST(RecordConfig, samples_under_context_parallelism_are_refused) {
  try {
    load_config("", {"log.sample_prompts=[\"a\"]", "parallel.context=2"});
    ADD_FAILURE() << "was not refused";
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::usage);
    EXPECT_NE(std::string(e.what()).find("parallel.context = 1"), std::string::npos) << e.what();
  }
}

TEST(RecordConfig, prompts_survive_being_written_out) {
  const Config config = load_config("", {"log.sample_prompts=[\"a: b\", 'say \"x\"', \"ünï\\n\"]"});
  EXPECT_EQ(config.log.sample_prompts, (std::vector<std::string>{"a: b", "say \"x\"", "ünï\n"}));
  EXPECT_EQ(parse_config(to_yaml(config), "written").log.sample_prompts, config.log.sample_prompts);
}

}  // namespace
}  // namespace jambalaya
