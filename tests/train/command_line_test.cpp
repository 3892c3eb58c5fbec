#include <gtest/gtest.h>

#include "kernels/error.h"
#include "train/commands/commands.h"
#include "train/run/log.h"

namespace jambalaya {
namespace {

template <class T>
T parse(const std::vector<std::string>& arguments) {
  return std::get<T>(parse_command_line(arguments).command);
}

std::string error_of(const std::vector<std::string>& arguments) {
  try {
    parse_command_line(arguments);
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::usage);
    return e.what();
  }
  return "accepted";
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << text << "' lacks '" << part << "'";
}

TEST(CommandLine, fixed_forms_are_accepted) {
  const auto train = parse<TokenizerTrainOptions>(
      {"tokenizer", "train", "--vocab-size", "64Ki", "--output", "t.json", "a.txt", "b.txt"});
  EXPECT_EQ(train.vocab_size, 65536);
  EXPECT_EQ(train.output, "t.json");
  EXPECT_EQ(train.files, (std::vector<std::string>{"a.txt", "b.txt"}));
  EXPECT_EQ(parse<TokenizerEncodeOptions>({"tokenizer", "encode", "--tokenizer", "t.json", "x"}).file, "x");
  const auto decode =
      parse<TokenizerDecodeOptions>({"tokenizer", "decode", "--tokenizer", "t.json", "--skip-special"});
  EXPECT_TRUE(decode.skip_special);
  EXPECT_TRUE(decode.file.empty());
  EXPECT_EQ(parse<ImportCommandOptions>({"import", "hf", "--output", "c"}).output, "c");
  EXPECT_EQ(parse<ExportCommandOptions>({"export", "c", "--output", "hf", "--max-shard-bytes", "1M"})
                .max_shard_bytes,
            1000000);
  const auto compare = parse<CompareOptions>(
      {"compare", "g", "--tolerance", "1e-3", "--precision", "bf16", "--set", "model.a=1", "--json"});
  EXPECT_EQ(compare.tolerance, 1e-3);
  EXPECT_EQ(compare.precision, "bf16");
  EXPECT_EQ(compare.set, std::vector<std::string>{"model.a=1"});
  EXPECT_TRUE(compare.json);
}

TEST(CommandLine, folders_may_bear_the_names_of_commands) {
  EXPECT_EQ(parse<DataInspectOptions>({"data", "inspect", "data"}).folder, "data");
  EXPECT_EQ(parse<TrainOptions>({"train", "train"}).config, "train");
  EXPECT_EQ(parse<GenerateOptions>({"generate", "doctor", "--prompt", "train"}).prompt, "train");
}

TEST(CommandLine, set_takes_one_value_and_repeats) {
  const auto train =
      parse<TrainOptions>({"train", "--set", "a.b=1", "c.yaml", "--set", "c.d=[[0, 1]]", "--resume", "auto"});
  EXPECT_EQ(train.config, "c.yaml");
  EXPECT_EQ(train.set, (std::vector<std::string>{"a.b=1", "c.d=[[0, 1]]"}));
  EXPECT_EQ(train.resume, "auto");
}

TEST(CommandLine, global_flags_stand_anywhere) {
  EXPECT_TRUE(parse_command_line({"--quiet", "doctor"}).global.quiet);
  EXPECT_TRUE(parse_command_line({"doctor", "--verbose"}).global.verbose);
  EXPECT_EQ(parse<DoctorOptions>({"doctor", "--set", "parallel.tensor=2", "a.yaml"}).config, "a.yaml");
  expect_contains(parse<ShowText>({"--version"}).text, "jambalaya ");
}

TEST(CommandLine, errors_name_the_nearest_command_and_option) {
  expect_contains(error_of({"trian"}), "unknown command 'trian' (did you mean 'train'?)");
  expect_contains(error_of({"tokenizer", "endcode"}), "did you mean 'tokenizer encode'?");
  expect_contains(error_of({"tokenizer"}), "a command is needed: train, encode or decode");
  expect_contains(error_of({"generate", "c", "--prompt", "a", "--temprature", "1"}),
                  "did you mean --temperature?");
  expect_contains(error_of({"train"}), "CONFIG");
  expect_contains(error_of({"evaluate", "c"}), "--data FOLDER or --choices FILE is needed");
  expect_contains(error_of({"generate", "c", "--top-p", "1.5"}), "must be from 0 to 1");
  expect_contains(error_of({"generate", "c", "--max-tokens", "many"}), "not a whole number");
  expect_contains(error_of({"compare", "g", "--precision", "fp16"}), "not one of f32 or bf16");
  expect_contains(error_of({"train", "c.yaml", "--device", "gpu"}), "(did you mean cuda?)");
  expect_contains(error_of({"tokenizer", "train", "--vocab-size", "64K", "--output", "t", "a"}), "64Ki");
}

TEST(CommandLine, help_of_every_command_teaches_by_example) {
  const std::vector<std::vector<std::string>> commands = {{},
                                                          {"tokenizer"},
                                                          {"tokenizer", "train"},
                                                          {"tokenizer", "encode"},
                                                          {"data"},
                                                          {"data", "encode"},
                                                          {"data", "inspect"},
                                                          {"train"},
                                                          {"evaluate"},
                                                          {"generate"},
                                                          {"export"},
                                                          {"import"},
                                                          {"compare"},
                                                          {"compare-runs"},
                                                          {"inspect"},
                                                          {"doctor"},
                                                          {"config"}};
  for (auto words : commands) {
    words.push_back("--help");
    const std::string text = parse<ShowText>(words).text;
    expect_contains(text, "Example:");
    expect_contains(text, "Next:");
  }
}

TEST(Log, box_wraps_at_words_and_aligns_its_edge) {
  EXPECT_EQ(boxed({"one two", "äb"}, 10),
            "+-------+\n"
            "| ! one |\n"
            "|   two |\n"
            "| ! äb  |\n"
            "+-------+");
}

}  // namespace
}  // namespace jambalaya
