// The commands: what each is asked (plain structs, filled by command_line.cpp) and the function that does it.
// Every run_… returns the exit code; what goes wrong is thrown as Error. With `json`, the answer is one JSON
// value on standard output and nothing else is written there.
#pragma once
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace jambalaya {

struct GlobalOptions {
  bool quiet = false;    ///< warnings and errors alone
  bool verbose = false;  ///< debugging lines too
};

struct TokenizerTrainOptions {
  std::vector<std::string> files;  ///< .txt, .jsonl, each also .gz or .zst
  int64_t vocab_size = 0;          ///< ids in all: specials, 256 bytes, merges
  std::string output;              ///< tokenizer.json
  int threads = 0;                 ///< 0: all allowed cores
  bool json = false;
};

struct TokenizerEncodeOptions {
  std::string tokenizer;
  std::string file;  ///< "-" or empty: standard input
  bool json = false;
};

struct TokenizerDecodeOptions {
  std::string tokenizer;
  std::string file;  ///< "-" or empty: standard input
  bool skip_special = false;
  bool json = false;  ///< one {"text": ...} for each line, else the texts and nothing between them
};

struct DataEncodeOptions {
  std::string tokenizer, output;
  std::vector<std::string> files;
  std::string split_on;            ///< "": a file is a document; "blank-lines"; "regex:…"
  double held_out = 0.05;          ///< share of documents, chosen by the hash of their text
  std::string invalid = "reject";  ///< invalid UTF-8: reject or replace
  bool parse_special = false;
  int threads = 0;
  bool json = false;
};

struct DataInspectOptions {
  std::string folder;
  std::string tokenizer;  ///< shows documents as text
  int64_t documents = 3;  ///< how many are shown
  bool verify = false;    ///< reads everything and compares the checksums
  bool json = false;
};

struct TrainOptions {
  std::string config;
  std::vector<std::string> set;  ///< "section.key=value", in order
  std::string resume = "none";   ///< auto, none or the path of a checkpoint
  std::string trace;             ///< file; wins over log.trace
  bool profile = false;          ///< sets log.profile
  std::string device;            ///< wins over run.device
};

struct EvaluateOptions {
  std::string checkpoint;
  std::string data;              ///< folder of encoded shards: held-out nats/token and bits/byte
  std::string choices;           ///< .jsonl of multiple-choice questions
  std::string tokenizer;         ///< empty: the checkpoint's
  int64_t tokens = 0;            ///< held-out tokens; 0: all
  int64_t sequence_length = 0;   ///< 0: that of the run
  int64_t batch = 4;             ///< rows at a time
  std::string precision;         ///< empty: that of the run
  std::vector<std::string> set;  ///< "parallel.key=value": how the ranks share the work
  std::string device = "auto";   ///< or cpu, cuda
  int threads = 0;
  bool json = false;
};

struct GenerateOptions {
  std::string checkpoint;
  std::string prompt;
  std::string prompt_file;
  std::string tokenizer;  ///< empty: the checkpoint's
  int64_t max_tokens = 100;
  double temperature = 0.8;  ///< 0: greedy
  int64_t top_k = 0;         ///< 0: off
  double top_p = 0.95;       ///< 1: off
  uint64_t seed = 1;
  int64_t prefill_chunk = 512;
  int64_t samples = 1;
  std::string precision;         ///< empty: that of the run
  std::vector<std::string> set;  ///< "parallel.key=value": how the ranks share the work
  std::string device = "auto";   ///< or cpu, cuda
  int threads = 0;
  bool json = false;
};

struct ExportCommandOptions {
  std::string checkpoint, output;
  std::string format = "huggingface";  ///< or native
  std::string dtype = "f32";           ///< or bf16
  int64_t max_shard_bytes = 5'000'000'000;
  bool overwrite = false;
  bool json = false;
};

struct ImportCommandOptions {
  std::string folder, output;
  bool overwrite = false;
  bool json = false;
};

struct CompareOptions {
  std::string folder;
  double tolerance = 0;           ///< 0: the stated ones of the precision
  std::string precision = "f32";  ///< or bf16
  std::vector<std::string> set;   ///< "model.key=value"
  std::string device = "auto";    ///< or cpu, cuda
  int threads = 0;
  bool json = false;
};

struct CompareRunsOptions {
  std::string a, b;      ///< run folders, folders of checkpoints, or checkpoints
  double tolerance = 0;  ///< relative; 0: the same bits
  bool json = false;
};

struct ReportOptions {
  std::string folder;  ///< of a run
  std::string output;  ///< empty: report.html in the folder
};

struct InspectOptions {
  std::string path;      ///< a checkpoint, a run folder or a config file
  bool tensors = false;  ///< one line a tensor
  bool verify = false;   ///< compares the hashes of a checkpoint
  bool json = false;
};

struct DoctorOptions {
  std::string config;            ///< shows its layout; empty: data ranks alone
  std::vector<std::string> set;  ///< "section.key=value", in order
  bool json = false;
};

struct ConfigOptions {
  std::string config;  ///< empty: the defaults
  std::vector<std::string> set;
  bool reference = false;  ///< prints docs/configuration.md instead
  bool json = false;
};

/// --help or --version: the text to print, after which the program is done.
struct ShowText {
  std::string text;
};

int run_tokenizer_train(const TokenizerTrainOptions& options);
int run_tokenizer_encode(const TokenizerEncodeOptions& options);
int run_tokenizer_decode(const TokenizerDecodeOptions& options);
int run_data_encode(const DataEncodeOptions& options);
int run_data_inspect(const DataInspectOptions& options);
int run_train(const TrainOptions& options);
int run_evaluate(const EvaluateOptions& options);
int run_generate(const GenerateOptions& options);
int run_export(const ExportCommandOptions& options);
int run_import(const ImportCommandOptions& options);
int run_compare(const CompareOptions& options);
int run_compare_runs(const CompareRunsOptions& options);
int run_report_command(const ReportOptions& options);
int run_inspect(const InspectOptions& options);
int run_doctor(const DoctorOptions& options);
int run_config(const ConfigOptions& options);

using Command = std::variant<ShowText, TokenizerTrainOptions, TokenizerEncodeOptions, TokenizerDecodeOptions,
                             DataEncodeOptions, DataInspectOptions, TrainOptions, EvaluateOptions,
                             GenerateOptions, ExportCommandOptions, ImportCommandOptions, CompareOptions,
                             CompareRunsOptions, ReportOptions, InspectOptions, DoctorOptions, ConfigOptions>;

struct CommandLine {
  GlobalOptions global;
  Command command;
};
/// `arguments` without the program's name. Throws Error(usage) with the nearest valid command or option.
CommandLine parse_command_line(const std::vector<std::string>& arguments);

}  // namespace jambalaya
