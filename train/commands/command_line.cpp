// The tree of commands, its help, and errors with exit code 2. Only this file, command_options.cpp and
// command_tree.cpp see CLI11.
#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>

#include "kernels/error.h"
#include "train/commands/command_options.h"
#include "train/commands/command_tree.h"
#include "train/commands/commands.h"
#include "train/commands/help_text.h"
#include "train/commands/written_pages.h"
#include "train/config/values.h"

namespace jambalaya {

namespace {

/// Every command's options, and which command was called.
struct Parsed {
  GlobalOptions global;
  TokenizerTrainOptions tokenizer_train;
  TokenizerEncodeOptions tokenizer_encode;
  TokenizerDecodeOptions tokenizer_decode;
  DataEncodeOptions data_encode;
  DataInspectOptions data_inspect;
  TrainOptions train;
  EvaluateOptions evaluate;
  GenerateOptions generate;
  ExportCommandOptions export_;
  ImportCommandOptions import;
  CompareOptions compare;
  CompareRunsOptions compare_runs;
  ReportOptions report;
  InspectOptions inspect;
  DoctorOptions doctor;
  ConfigOptions config;
  std::string completion_shell;
};

CLI::App* command(CLI::App& parent, const std::string& name) {
  const HelpText& help = help_of(parent.get_name().empty() ? name : parent.get_name() + " " + name);
  CLI::App* app = parent.add_subcommand(name, help.sentence);
  app->footer(help.footer());
  return app;
}

void add_tokenizer_commands(CLI::App& root, Parsed& p) {
  CLI::App* tokenizer = command(root, "tokenizer");
  tokenizer->require_subcommand(1);
  {
    auto& o = p.tokenizer_train;
    CLI::App* app = command(*tokenizer, "train");
    app->add_option("FILE", o.files, "Text: .txt or .jsonl, each also .gz or .zst")->required();
    add_count(*app, "--vocab-size", o.vocab_size,
              "Ids in all: special tokens, 256 bytes and merges, e.g. 4096 or 64Ki", 260);
    app->get_option("--vocab-size")->required();
    app->add_option("--output", o.output, "tokenizer.json to write")->required();
    add_threads(*app, o.threads);
    add_json(*app, o.json);
  }
  {
    auto& o = p.tokenizer_encode;
    CLI::App* app = command(*tokenizer, "encode");
    app->add_option("--tokenizer", o.tokenizer, "tokenizer.json")->required();
    app->add_option("FILE", o.file, "Text; - or nothing: standard input");
    add_json(*app, o.json);
  }
  {
    auto& o = p.tokenizer_decode;
    CLI::App* app = command(*tokenizer, "decode");
    app->add_option("--tokenizer", o.tokenizer, "tokenizer.json")->required();
    app->add_option("FILE", o.file,
                    "Lines of ids: 1 2 3, [1, 2, 3] or {\"ids\": [1, 2, 3]}; - or nothing: standard input");
    app->add_flag("--skip-special", o.skip_special, "Leave out special tokens");
    add_json(*app, o.json);
  }
}

void add_data_commands(CLI::App& root, Parsed& p) {
  CLI::App* data = command(root, "data");
  data->require_subcommand(1);
  {
    auto& o = p.data_encode;
    CLI::App* app = command(*data, "encode");
    app->add_option("FILE", o.files, "Text: .txt or .jsonl, each also .gz or .zst")->required();
    app->add_option("--tokenizer", o.tokenizer, "tokenizer.json")->required();
    app->add_option("--output", o.output, "Folder for shards and manifest.json")->required();
    app->add_option("--split-on", o.split_on,
                    "Cut a .txt file into documents at blank-lines, or where regex:PATTERN matches; else a "
                    "file is one document");
    add_number(*app, "--held-out", o.held_out, "Share of documents kept for evaluation, chosen by their hash",
               0, 1);
    add_choice(*app, "--invalid", o.invalid, {"reject", "replace"}, "What to do with invalid UTF-8");
    app->add_flag("--parse-special", o.parse_special, "Text that spells a special token becomes its id");
    add_threads(*app, o.threads);
    add_json(*app, o.json);
  }
  {
    auto& o = p.data_inspect;
    CLI::App* app = command(*data, "inspect");
    app->add_option("FOLDER", o.folder, "Folder with manifest.json")->required();
    app->add_option("--tokenizer", o.tokenizer, "tokenizer.json, to show documents as text");
    add_count(*app, "--documents", o.documents, "Documents to show");
    app->add_flag("--verify", o.verify, "Read everything and compare the checksums");
    add_json(*app, o.json);
  }
}

void add_run_commands(CLI::App& root, Parsed& p) {
  {
    auto& o = p.train;
    CLI::App* app = command(root, "train");
    app->add_option("CONFIG", o.config, "YAML; see docs/configuration.md")->required();
    add_set(*app, o.set, "Override one value; may be repeated");
    app->add_option("--resume", o.resume,
                    "auto (the newest whole checkpoint of the run), none, or the path of one")
        ->type_name("auto, none or FOLDER");
    app->add_option("--trace", o.trace,
                    "Write what every thread of every rank did in steps 3 to 5 of this job (log.trace_from, "
                    "log.trace_steps) as Chrome trace JSON: look at it with ui.perfetto.dev or "
                    "scripts/trace_summary")
        ->type_name("FILE");
    app->add_flag(
        "--profile", o.profile,
        "Print where the time of those steps went, by kind of work, with FLOP/s and the share of this "
        "machine's peak; traces every op into the run's profile.json, or the file of --trace");
    add_device(*app, o.device, "Where the model is computed; overrides run.device");
  }
  {
    auto& o = p.evaluate;
    CLI::App* app = command(root, "evaluate");
    app->add_option("CHECKPOINT", o.checkpoint, "Folder of a checkpoint or of a run")->required();
    app->add_option("--data", o.data, "Encoded shards: nats/token and bits/byte of the held-out documents");
    app->add_option("--choices", o.choices, "Multiple-choice questions (.jsonl), scored by log-probability");
    app->add_option("--tokenizer", o.tokenizer, "tokenizer.json; else the checkpoint's");
    add_count(*app, "--tokens", o.tokens, "Held-out tokens to read; 0: all");
    add_count(*app, "--sequence-length", o.sequence_length, "Tokens of a row; 0: as in training");
    add_count(*app, "--batch", o.batch, "Rows at a time", 1);
    add_choice(*app, "--precision", o.precision, {"f32", "bf16"}, "Else as in training");
    add_set(*app, o.set,
            "Under mpirun: how the ranks share the work, e.g. parallel.tensor=2; may be repeated");
    add_device(*app, o.device, kDeviceDoc);
    add_threads(*app, o.threads);
    add_json(*app, o.json);
  }
  {
    auto& o = p.generate;
    CLI::App* app = command(root, "generate");
    app->add_option("CHECKPOINT", o.checkpoint, "Folder of a checkpoint or of a run")->required();
    auto* prompt = app->add_option("--prompt", o.prompt, "Text to continue");
    app->add_option("--prompt-file", o.prompt_file, "File with the text to continue; - is standard input")
        ->excludes(prompt);
    app->add_option("--tokenizer", o.tokenizer, "tokenizer.json; else the checkpoint's");
    add_count(*app, "--max-tokens", o.max_tokens, "Tokens to add at most", 1);
    add_number(*app, "--temperature", o.temperature, "0: always the likeliest token", 0, 100);
    add_count(*app, "--top-k", o.top_k, "Choose among the k likeliest tokens; 0: off");
    add_number(*app, "--top-p", o.top_p,
               "Choose among the likeliest tokens that make up this probability; 1: off", 0, 1);
    app->add_option("--seed", o.seed, "The same seed gives the same text");
    add_count(*app, "--prefill-chunk", o.prefill_chunk, "Tokens of the prompt computed at a time", 1);
    add_count(*app, "--samples", o.samples, "Continuations to make", 1);
    add_choice(*app, "--precision", o.precision, {"f32", "bf16"}, "Else as in training");
    add_set(*app, o.set,
            "Under mpirun: how the ranks share the work, e.g. parallel.tensor=2; may be repeated");
    add_device(*app, o.device, kDeviceDoc);
    add_threads(*app, o.threads);
    add_json(*app, o.json);
  }
}

void add_interchange_commands(CLI::App& root, Parsed& p) {
  {
    auto& o = p.export_;
    CLI::App* app = command(root, "export");
    app->add_option("CHECKPOINT", o.checkpoint, "Folder of a checkpoint or of a run")->required();
    app->add_option("--output", o.output, "Folder to write")->required();
    add_choice(*app, "--format", o.format, {"huggingface", "native"},
               "native can express what Hugging Face's Jamba cannot");
    add_choice(*app, "--dtype", o.dtype, {"f32", "bf16"}, "Of the weights");
    add_count(*app, "--max-shard-bytes", o.max_shard_bytes, "Largest safetensors file, e.g. 5G", 1);
    app->add_flag("--overwrite", o.overwrite, "Replace a model that is there already");
    add_json(*app, o.json);
  }
  {
    auto& o = p.import;
    CLI::App* app = command(root, "import");
    app->add_option("HF_FOLDER", o.folder, "config.json and safetensors, Hugging Face's or native")
        ->required();
    app->add_option("--output", o.output, "Folder of the checkpoint to write")->required();
    app->add_flag("--overwrite", o.overwrite, "Write although the folder holds a checkpoint already");
    add_json(*app, o.json);
  }
  {
    auto& o = p.compare;
    CLI::App* app = command(root, "compare");
    app->add_option("FOLDER", o.folder, "A model with recorded tokens, logits, losses and gradients")
        ->required();
    add_number(*app, "--tolerance", o.tolerance, "Bound on every error that is printed; 0: the stated ones",
               0, 10);
    add_choice(*app, "--precision", o.precision, {"f32", "bf16"}, "Of the computation");
    add_set(*app, o.set, "Change the model, e.g. model.router_renormalize=true; may be repeated");
    add_device(*app, o.device, kDeviceDoc);
    add_threads(*app, o.threads);
    add_json(*app, o.json);
  }
}

void add_looking_commands(CLI::App& root, Parsed& p) {
  {
    auto& o = p.compare_runs;
    CLI::App* app = command(root, "compare-runs");
    app->add_option("A", o.a, "A run's folder, or a checkpoint")->required();
    app->add_option("B", o.b, "The other one")->required();
    add_number(*app, "--tolerance", o.tolerance,
               "Differences up to this are none: relative, of a tensor in the L2 norm; 0: the same bits", 0,
               10);
    add_json(*app, o.json);
  }
  {
    auto& o = p.report;
    CLI::App* app = command(root, "report");
    app->add_option("RUN_FOLDER", o.folder, "Folder of a run")->required();
    app->add_option("--output", o.output, "File to write; else report.html in the run's folder");
  }
  {
    auto& o = p.inspect;
    CLI::App* app = command(root, "inspect");
    app->add_option("PATH", o.path, "A checkpoint, a run's folder or a config")->required();
    app->add_flag("--tensors", o.tensors, "One line for each tensor");
    app->add_flag(
        "--verify", o.verify,
        "Exit with 6 when a checkpoint that was looked at is damaged, even if an older one is whole");
    add_json(*app, o.json);
  }
  {
    auto& o = p.config;
    CLI::App* app = command(root, "config");
    app->add_option("CONFIG", o.config, "YAML; nothing: the defaults");
    add_set(*app, o.set, "Override one value; may be repeated");
    app->add_flag("--reference", o.reference, "Print the reference of all options (docs/configuration.md)");
    add_json(*app, o.json);
  }
  {
    auto& o = p.doctor;
    CLI::App* app = command(root, "doctor");
    app->add_option("CONFIG", o.config, "YAML: shows how its layout places the ranks");
    add_set(*app, o.set, "Override one value; may be repeated");
    add_json(*app, o.json);
  }
}

void add_page_commands(CLI::App& root, Parsed& p) {
  CLI::App* app = command(root, "completion");
  add_choice(*app, "SHELL", p.completion_shell, {"bash", "zsh"}, "For which shell");
  app->get_option("SHELL")->required();
  command(root, "man");
}

std::vector<std::string> names_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const auto* sub : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(sub->get_name());
  return names;
}

/// CLI11 takes an unknown command for a surplus argument; this names the nearest one instead.
void check_command_names(const CLI::App& root, const std::vector<std::string>& arguments) {
  const CLI::App* app = &root;
  for (const auto& word : arguments) {
    const auto names = names_of(*app);
    if (names.empty()) return;
    if (word.starts_with("-")) continue;
    if (std::find(names.begin(), names.end(), word) == names.end()) {
      const std::string near = nearest_word(word, names),
                        path = app->get_name().empty() ? "" : cat(app->get_name(), " ");
      throw Error(Exit::usage, cat("unknown command '", path, word, "'",
                                   near.empty() ? "" : cat(" (did you mean '", path, near, "'?)"),
                                   "; the commands are ", either(names), "; see jambalaya ", path, "--help"));
    }
    app = app->get_subcommand(word);
  }
  const bool asks = std::any_of(arguments.begin(), arguments.end(), [](const std::string& word) {
    return word == "--help" || word == "-h" || word == "--version";
  });
  if (!asks && !names_of(*app).empty())
    throw Error(Exit::usage, cat(app->get_name(), app->get_name().empty() ? "" : ": ",
                                 "a command is needed: ", either(names_of(*app)), "; see jambalaya ",
                                 app->get_name(), app->get_name().empty() ? "" : " ", "--help"));
}

/// The command that was called, as far as the words name one.
const CLI::App* deepest(const CLI::App& root) {
  const CLI::App* app = &root;
  while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
  return app;
}

std::string path_of(const CLI::App& app) {
  const CLI::App* parent = app.get_parent();
  return parent && !parent->get_name().empty() ? cat(parent->get_name(), " ", app.get_name())
                                               : app.get_name();
}

[[noreturn]] void rethrow_as_usage(const CLI::ParseError& e, const CLI::App& root) {
  const CLI::App& app = *deepest(root);
  const std::string path = path_of(app),
                    help = cat("; see jambalaya ", path, path.empty() ? "" : " ", "--help");
  if (const auto* extras = dynamic_cast<const CLI::ExtrasError*>(&e)) {
    std::vector<std::string> options;
    for (const auto* option : app.get_options())
      for (const auto& name : option->get_lnames()) options.push_back("--" + name);
    std::string word = extras->what();
    word = word.substr(word.rfind(": ") == std::string::npos ? 0 : word.rfind(": ") + 2);
    // The surplus words come in no useful order; an option among them is the cause.
    if (const size_t dash = word.find("--"); dash != std::string::npos) word = word.substr(dash);
    word = word.substr(0, word.find(' '));
    const std::string near = nearest_word(word, options);
    throw Error(Exit::usage, cat(path, ": ", word, " is not expected here",
                                 near.empty() ? "" : cat(" (did you mean ", near, "?)"), help));
  }
  throw Error(Exit::usage, cat(path, path.empty() ? "" : ": ", e.what(), help));
}

Command chosen(const CLI::App& root, const Parsed& p) {
  const std::string path = path_of(*deepest(root));
  if (path == "man") return ShowText{man_page(describe(root))};
  if (path == "completion" && p.completion_shell == "bash") return ShowText{bash_completion(describe(root))};
  if (path == "completion") return ShowText{zsh_completion(describe(root))};
  if (path == "tokenizer train") return p.tokenizer_train;
  if (path == "tokenizer encode") return p.tokenizer_encode;
  if (path == "tokenizer decode") return p.tokenizer_decode;
  if (path == "data encode") return p.data_encode;
  if (path == "data inspect") return p.data_inspect;
  if (path == "train") return p.train;
  if (path == "evaluate") return p.evaluate;
  if (path == "generate") return p.generate;
  if (path == "export") return p.export_;
  if (path == "import") return p.import;
  if (path == "compare") return p.compare;
  if (path == "compare-runs") return p.compare_runs;
  if (path == "report") return p.report;
  if (path == "inspect") return p.inspect;
  if (path == "config") return p.config;
  JAMBALAYA_CHECK(path == "doctor", "no options for the command ", path);
  return p.doctor;
}

/// Rules between options that CLI11 does not know.
void check_together(const Command& command) {
  if (const auto* o = std::get_if<EvaluateOptions>(&command); o && o->data.empty() && o->choices.empty())
    throw Error(Exit::usage,
                "evaluate: --data FOLDER or --choices FILE is needed; see jambalaya evaluate --help");
  if (const auto* o = std::get_if<GenerateOptions>(&command); o && o->top_p <= 0)
    throw Error(Exit::usage,
                "generate: --top-p 0 leaves no token to choose; use --temperature 0 for the likeliest one");
}

}  // namespace

CommandLine parse_command_line(const std::vector<std::string>& arguments) {
  Parsed parsed;
  const HelpText& help = help_of("");
  CLI::App root(help.sentence);
  root.name("");
  root.footer(help.footer());
  root.require_subcommand(1);
  root.fallthrough();  // --quiet may stand behind the command
  bool version = false;
  root.add_flag("--version", version, "Print the version");
  root.add_flag("--quiet,-q", parsed.global.quiet, "Show warnings and errors alone");
  root.add_flag("--verbose,-v", parsed.global.verbose, "Show more");
  add_tokenizer_commands(root, parsed);
  add_data_commands(root, parsed);
  add_run_commands(root, parsed);
  add_interchange_commands(root, parsed);
  add_looking_commands(root, parsed);
  add_page_commands(root, parsed);

  if (arguments.empty()) return {parsed.global, ShowText{root.help("jambalaya")}};
  if (arguments.front() == "--version") return {parsed.global, ShowText{version_text()}};
  check_command_names(root, arguments);
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // as CLI11 wants them
  try {
    root.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    const CLI::App& app = *deepest(root);
    const CLI::App* parent = app.get_parent();
    const std::string prefix =
        parent ? cat("jambalaya", parent->get_name().empty() ? "" : " ", parent->get_name()) : "";
    return {parsed.global, ShowText{parent ? app.help(prefix) : root.help("jambalaya")}};
  } catch (const CLI::ParseError& e) {
    rethrow_as_usage(e, root);
  }
  if (version) return {parsed.global, ShowText{version_text()}};
  Command result = chosen(root, parsed);
  check_together(result);
  return {parsed.global, std::move(result)};
}

}  // namespace jambalaya
