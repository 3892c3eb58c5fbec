#include "train/config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "kernels/error.h"
#include "model/parameters.h"
#include "train/config/options.h"
#include "train/config/values.h"

namespace jambalaya {
namespace {

namespace fs = std::filesystem;

const std::string kSource = JAMBALAYA_SOURCE_DIR;

class ConfigFiles : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / cat("jambalaya_config_test_", int64_t(getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string write(const std::string& text, const std::string& name = "run.yaml") {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }
  Config load(const std::string& text, const std::vector<std::string>& set = {}) {
    return load_config(write(text), set);
  }
  /// The message without the folder, so that places read "run.yaml:2:3".
  std::string error(const std::string& text, const std::vector<std::string>& set = {}) {
    return error_of(write(text), set);
  }
  std::string error_of(const std::string& path, const std::vector<std::string>& set = {}) {
    try {
      load_config(path, set);
    } catch (const Error& e) {
      EXPECT_EQ(e.exit(), Exit::usage);
      std::string what = e.what();
      const std::string prefix = folder_.string() + "/";
      for (size_t at; (at = what.find(prefix)) != std::string::npos;) what.erase(at, prefix.size());
      return what;
    }
    return "accepted";
  }
  fs::path folder_;
};

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << text << "' lacks '" << part << "'";
}

int64_t lines_of(const std::string& text) { return 1 + std::count(text.begin(), text.end(), '\n'); }

TEST_F(ConfigFiles, nothing_given_means_the_defaults) {
  EXPECT_EQ(to_yaml(load_config("", {})), to_yaml(Config{}));
  EXPECT_EQ(to_yaml(load("")), to_yaml(Config{}));
  EXPECT_EQ(to_yaml(load("schema_version: 1\nmodel:\n")), to_yaml(Config{}));
}

TEST_F(ConfigFiles, resolved_config_reads_back_to_the_same_value) {
  for (const auto& entry : fs::directory_iterator(kSource + "/configs")) {
    const std::string text = to_yaml(load_config(entry.path().string(), {}));
    EXPECT_EQ(to_yaml(load(text)), text) << entry.path();
  }
  const std::vector<std::string> odd = {"run.folder=a: \"b\" # c\\d\x01",
                                        "run.seed=18446744073709551615",
                                        "optimizer.eps=1e-300",
                                        "optimizer.lr=0.1234567890123456789",
                                        "data.length_schedule=[[0, 128], [10, 256]]",
                                        "model.mixer_pattern=MMMA",
                                        "model.aux_mode=megablocks",
                                        "model.pad_token_id=-1"};
  const Config config = load_config("", odd);
  EXPECT_EQ(config.run.seed, UINT64_MAX);
  EXPECT_EQ(config.optimizer.lr, 0.1234567890123456789);
  EXPECT_EQ(config.run.folder, "a: \"b\" # c\\d\x01");
  const Config again = load(to_yaml(config));
  EXPECT_EQ(to_yaml(again), to_yaml(config));
  EXPECT_EQ(again.data.length_schedule, config.data.length_schedule);
  EXPECT_EQ(model_to_yaml(parse_model_config(model_to_yaml(config.model), "manifest")),
            model_to_yaml(config.model));
}

TEST_F(ConfigFiles, every_option_can_be_set_and_is_written_out) {
  for (const auto& option : config_options()) {
    if (!option.get) continue;
    const Config config;
    std::string value = option.get(config);
    if (option.type == "true/false") value = value == "true" ? "false" : "true";
    if (option.type == "choice") value = option.range.substr(option.range.rfind(' ') + 1);
    const Config changed = load_config("", {cat(option.key, "=", value)});
    EXPECT_EQ(option.get(changed), value) << option.key;
    EXPECT_FALSE(option.doc.empty()) << option.key;
  }
}

TEST_F(ConfigFiles, reference_in_docs_is_current) {
  std::ifstream in(kSource + "/docs/configuration.md");
  std::ostringstream text;
  text << in.rdbuf();
  EXPECT_EQ(text.str(), configuration_reference())
      << "docs/configuration.md is out of date: jambalaya config --reference > docs/configuration.md";
}

TEST_F(ConfigFiles, shipped_configs_have_the_published_shapes) {
  const auto count = [](const char* name) {
    return count_parameters(load_config(cat(kSource, "/configs/", name, ".yaml"), {}).model);
  };
  EXPECT_EQ(count("jamba-v0.1").total, 51'570'323'328);
  EXPECT_EQ(count("jamba-v0.1").active, 12'110'311'296);
  EXPECT_EQ(count("jamba-1.5-mini").total, 51'570'323'328);
  EXPECT_EQ(count("jamba-1.5-large").total, 398'555'145'696);
  EXPECT_EQ(count("jamba-1.5-large").active, 94'149'338'592);
  EXPECT_NEAR(double(count("benchmark").total), 13.2e6, 0.05e6);
  EXPECT_NEAR(double(count("jamba-100m").total), 108e6, 1e6);
  EXPECT_NEAR(double(count("jamba-100m").active), 56e6, 1e6);
  EXPECT_NEAR(double(count("ablation-1.3b").total), 1.3e9, 0.03e9);
  EXPECT_NEAR(double(count("ablation-7b").total), 7e9, 0.2e9);
  EXPECT_LT(count("readme").total, 10'000'000);
  const auto kinds = layer_kinds(load_config(kSource + "/configs/ablation-1.3b.yaml", {}).model);
  for (size_t i = 0; i < kinds.size(); i++)
    EXPECT_EQ(kinds[i].mixer == Mixer::attention, i == 4 || i == 12 || i == 20);
}

TEST_F(ConfigFiles, unknown_keys_are_named_with_place_and_suggestion) {
  EXPECT_EQ(error("model:\n  attn_layer_perod: 8\n"),
            "run.yaml:2:3: unknown key 'model.attn_layer_perod' (did you mean 'attn_layer_period'?)");
  EXPECT_EQ(error("modell:\n  x: 8\n"), "run.yaml:1:1: unknown section 'modell' (did you mean 'model'?)");
  expect_contains(error("model: {lr: 1}\n"),
                  "run.yaml:1:9: unknown key 'model.lr' (did you mean 'optimizer.lr'?)");
  expect_contains(error("lr: 1\n"), "did you mean 'optimizer.lr'");
  expect_contains(error("", {"log.sample_prompts=[a]", "log.evaluate_every=0"}), "log.evaluate_every = 0");
  for (const char* device : {"gpu", "GPU", "CUDA"})
    expect_contains(error("", {cat("run.device=", device)}), "(did you mean cuda?)");
  expect_contains(error("log: {frobnicate: 1}\n"),
                  "the keys of log are every, evaluate_every, evaluate_tokens, level, trace, trace_from, "
                  "trace_steps, profile, tensorboard, sample_prompts, sample_tokens or sample_temperature");
  EXPECT_EQ(error("", {"optimizer.lrr=1"}),
            "--set optimizer.lrr=1: unknown key 'optimizer.lrr' (did you mean 'lr'?)");
  expect_contains(error("", {"optimiser.lr=1"}), "unknown section 'optimiser' (did you mean 'optimizer'?)");
  expect_contains(error("", {"train.steps"}), "expected section.key=value");
}

TEST_F(ConfigFiles, values_of_the_wrong_type_are_refused) {
  const std::pair<const char*, const char*> cases[] = {
      {"train: {steps: ten}", "run.yaml:1:16: train.steps = ten: not a whole number"},
      {"train: {steps: 1.5}", "not a whole number"},
      {"train: {steps: 010}", "leading zero"},
      {"train: {steps: 0x10}", "not a whole number"},
      {"train: {steps: 1_000}", "not a whole number"},
      {"train: {steps: \"10\"}", "remove the quotes"},
      {"train: {steps: 64K}", "write 64k (1000) or 64Ki (1024)"},
      {"train: {steps: 1.0005k}", "not a whole number"},
      {"train: {steps: 99999999999999999999}", "does not fit into 64 bits"},
      {"train: {steps: }", "no value given"},
      {"train: {steps: [1]}", "a list where one value is needed"},
      {"train: {steps: {a: 1}}", "a section where one value is needed"},
      {"train: {steps: 0}", "outside 1 to 1099511627776; nearest: 1"},
      {"train: {precision: fp16}", "not one of f32 or bf16"},
      {"optimizer: {lr: 3e-}", "optimizer.lr = 3e-: not a number"},
      {"optimizer: {lr: .nan}", "not a number"},
      {"optimizer: {lr: nan}", "must be a finite number"},
      {"optimizer: {lr: inf}", "must be a finite number"},
      {"optimizer: {lr: 0}", "out of range (expected above 0, at most 100)"},
      {"optimizer: {lr: 1e999}", "out of the range of numbers"},
      {"model: {tie_word_embeddings: yes}", "must be true or false"},
      {"model: {hidden_size: -1}", "hidden_size = -1 is outside 1 to"},
      {"run: {seed: -1}", "must not be negative"},
      {"data: {length_schedule: 5}", "must be a list of"},
      {"data: {length_schedule: [[5, 128], [5, 64]]}", "step 5 does not come after step 5"},
      {"model: 5", "model is a section"},
      {"- a\n- b", "a config is a map of sections"},
      {"schema_version: 2", "this program reads 1"},
  };
  for (const auto& [text, part] : cases) expect_contains(error(text), part);
}

TEST_F(ConfigFiles, counts_may_have_suffixes) {
  const Config config =
      load("data: {sequence_length: 4Ki, global_batch: \"2k\"}\nlog: {evaluate_tokens: 1.5M}\n");
  EXPECT_EQ(config.data.sequence_length, 4096);
  EXPECT_EQ(config.data.global_batch, 2000);
  EXPECT_EQ(config.log.evaluate_tokens, 1'500'000);
  EXPECT_EQ(load("", {"log.evaluate_tokens=64k"}).log.evaluate_tokens, 64000);
}

TEST_F(ConfigFiles, yaml_that_programs_read_differently_is_refused) {
  EXPECT_EQ(error("model:\n  hidden_size: 64\n  hidden_size: 128\n"),
            "run.yaml:3:3: duplicate key 'hidden_size' (first at run.yaml:2:3); keep one of them");
  expect_contains(error("run:\n  folder: &x a\n"), "run.yaml:2:11: anchors");
  expect_contains(error("run: *x\n"), "run.yaml:1:");
  expect_contains(error("model:\n  <<: {a: 1}\n"), "run.yaml:2:3: merge keys");
  expect_contains(error("run:\n  folder: !!str a\n"), "tags");
  expect_contains(error("run: {}\n---\nrun: {}\n"), "more than one YAML document");
  expect_contains(error("run: {folder: \"\xC3\x28\"}\n"), "run.yaml:1:16: not valid UTF-8");
  expect_contains(error(std::string("run: {folder: a}\n\0", 18)), "NUL");
  expect_contains(error("run:\n  folder: [a\n"), "run.yaml:3:");
  expect_contains(error("run: {? [a] : b}\n"), "a key must be a plain word");
}

TEST_F(ConfigFiles, hostile_sizes_are_refused_quickly) {
  expect_contains(error(std::string(kMaxConfigBytes + 1, ' ')), "larger than");
  expect_contains(error("run: " + std::string(1000, '[') + std::string(1000, ']')),
                  "nested deeper than 32 levels");
  std::string many = "data: {length_schedule: [";
  for (int i = 0; i < 20000; i++) many += "1,";
  expect_contains(error(many + "1]}"), "more than 10000 values");
}

TEST_F(ConfigFiles, all_problems_are_reported_at_once) {
  const std::string what = error(
      "model:\n  hidden_size: 100\n  num_attention_heads: 8\n  frob: 1\n"
      "train:\n  steps: 10\noptimizer:\n  warmup_steps: 10\ndata:\n  micro_batch: 4\n  global_batch: 6\n",
      {"run.threads=x"});
  EXPECT_EQ(lines_of(what), 5) << what;
  expect_contains(what, "run.yaml:4:3: unknown key 'model.frob'");
  expect_contains(what,
                  "run.yaml:3:24: model.num_attention_heads = 8 does not divide hidden_size = 100; nearest: "
                  "num_attention_heads = 5 or 10, hidden_size = 96 or 104");
  expect_contains(what, "run.yaml:8:17: optimizer.warmup_steps = 10 must be below train.steps = 10");
  expect_contains(what,
                  "run.yaml:11:17: data.global_batch = 6 is not a multiple of data.micro_batch = 4; nearest: "
                  "data.global_batch = 4 or 8");
  expect_contains(what, "--set run.threads=x: not a whole number");
}

TEST_F(ConfigFiles, rules_between_sections) {
  expect_contains(error("parallel: {data: 3}\ndata: {micro_batch: 4, global_batch: 16}"),
                  "x parallel.data = 3; nearest: data.global_batch = 12 or 24");
  expect_contains(error("data: {length_schedule: [[0, 300]]}"),
                  "length 300 from step 0 does not divide the 2048 tokens");
  expect_contains(error("optimizer: {schedule: wsd, decay_share: 0.95}"), "at most 0.9");
  expect_contains(error("train: {branch_from: a, init_from: b}"), "both given");
  expect_contains(error("run: {folder: \"\"}"), "run.folder is empty");
  // A rule broken by a default is placed at the key that was given.
  expect_contains(error("model:\n  hidden_size: 33\n"), "run.yaml:2:16: model.num_attention_heads = 32");
  expect_contains(error("", {"train.steps=5"}),
                  "--set train.steps=5: optimizer.warmup_steps = 20 must be below train.steps = 5");
  // What follows from an unreadable value is not reported.
  EXPECT_EQ(lines_of(error("model: {hidden_size: x, num_attention_heads: 7, num_key_value_heads: 7}")), 1);
}

TEST_F(ConfigFiles, bases_lie_below_and_overrides_above) {
  write("train: {steps: 50}\noptimizer: {lr: 2e-3}\n", "base/base.yaml");
  write("extends: base/base.yaml\nrun: {seed: 7}\noptimizer: {lr: 4e-3}\n", "middle.yaml");
  const std::string top = write("optimizer: {warmup_steps: 3}\nextends: middle.yaml\n", "top.yaml");
  const Config config = load_config(top, {"run.seed=8", "run.seed=9"});
  EXPECT_EQ(config.train.steps, 50);
  EXPECT_EQ(config.optimizer.lr, 4e-3);
  EXPECT_EQ(config.optimizer.warmup_steps, 3);
  EXPECT_EQ(config.run.seed, 9u);
}

TEST_F(ConfigFiles, bases_stay_inside_the_folder) {
  write("train: {steps: 50}\n", "outside.yaml");
  expect_contains(error_of(write("extends: ../outside.yaml\n", "inside/a.yaml")),
                  "inside/a.yaml:1:10: extends: ../outside.yaml lies outside");
  expect_contains(error("extends: /etc/passwd\n"), "must be relative");
  fs::create_symlink("/etc/passwd", folder_ / "link.yaml");
  expect_contains(error("extends: link.yaml\n"), "lies outside");
  expect_contains(error("extends: nowhere.yaml\n"), "no such file");
  expect_contains(error("extends: [a, b]\n"), "one YAML file");
  expect_contains(error("extends: run.yaml\n"), "extends it in turn");
  for (int i = 0; i < 12; i++) write(cat("extends: c", i + 1, ".yaml\n"), cat("c", i, ".yaml"));
  write("", "c12.yaml");
  expect_contains(error_of((folder_ / "c0.yaml").string()), "more than 8 bases deep");
  expect_contains(error_of((folder_ / "none.yaml").string()), "no such config file");
  expect_contains(error_of(folder_.string()), "not a file");
}

TEST_F(ConfigFiles, notation_sets_the_layers_and_must_agree_with_single_keys) {
  const Config config = load("model: {notation: 8/1:7/2/4/2x2, attn_layer_offset: 3}\n");
  EXPECT_EQ(config.model.num_hidden_layers, 16);
  EXPECT_EQ(config.model.num_experts, 4);
  EXPECT_EQ(config.model.attn_layer_offset, 3);
  EXPECT_EQ(notation_of(load("model: {notation: 8/1:7/2/4/2, num_experts: 4, num_hidden_layers: 8}\n").model),
            "8/1:7/2/4/2");

  EXPECT_EQ(error("model:\n  num_experts: 8\n  notation: 8/1:7/2/4/2\n"),
            "run.yaml:2:16: model.num_experts = 8 disagrees with model.notation = 8/1:7/2/4/2 "
            "(run.yaml:3:13), which says 4; "
            "nearest: model.notation = 8/1:7/2/8/2");
  expect_contains(error("model: {notation: 8/1:7, num_hidden_layers: 24}"),
                  "nearest: model.notation = 8/1:7x3");
  expect_contains(error("model: {notation: 8/1:7, attn_layer_period: 4}"), "which says 8");
  expect_contains(error("model: {notation: 8/3:5, attn_layer_offset: 2}"), "needs the pattern MAMMAMAM");
  expect_contains(error("model: {notation: 8/0:1, attn_layer_offset: 2}"), "has no attention layers");
  expect_contains(error("model: {notation: 8/1:7, mixer_pattern: MA}"), "means other layers");
  expect_contains(error("model: {notation: 8/1:7/2/4/5}"),
                  "run.yaml:1:19: model.notation: notation '8/1:7/2/4/5': K = 5");
  EXPECT_EQ(lines_of(error("model: {notation: 8/1:x}")), 1);
}

TEST_F(ConfigFiles, a_notation_that_overrides_replaces_keys_below_it) {
  write("model: {num_hidden_layers: 24, num_experts: 1, num_experts_per_tok: 1}\n", "base.yaml");
  const Config config = load("extends: base.yaml\nmodel: {notation: 4/1:3/2/8/2}\n");
  EXPECT_EQ(notation_of(config.model), "4/1:3/2/8/2");
  EXPECT_EQ(notation_of(load("model: {notation: 8/1:7}", {"model.notation=8/0:1"}).model), "8/0:1");
  expect_contains(
      error("model: {notation: 8/1:7/2/4/2}", {"model.num_experts=8"}),
      "--set model.num_experts=8: model.num_experts = 8 disagrees with model.notation = 8/1:7/2/4/2");
}

TEST_F(ConfigFiles, model_sections_of_manifests_are_read_as_strictly) {
  try {
    parse_model_config("hidden_size: 64\nnum_attention_heads: 5\nfrob: 1\n", "manifest");
    FAIL();
  } catch (const Error& e) {
    expect_contains(e.what(), "manifest:3:1: unknown key 'model.frob'");
    expect_contains(e.what(), "manifest:2:22: model.num_attention_heads = 5");
  }
}

TEST(Words, the_nearest_is_found_and_nothing_far) {
  EXPECT_EQ(nearest_word("stpes", {"steps", "minutes"}), "steps");
  EXPECT_EQ(nearest_word("xyzzy", {"steps", "minutes"}), "");
  EXPECT_EQ(nearest_word("trian", {"train", "inspect"}), "train");
  EXPECT_EQ(nearest_word("a", {}), "");
}

}  // namespace
}  // namespace jambalaya
