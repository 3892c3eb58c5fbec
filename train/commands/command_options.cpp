#include "train/commands/command_options.h"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>

#include "kernels/error.h"
#include "train/config/values.h"

namespace jambalaya {

void add_count(CLI::App& app, const std::string& name, int64_t& value, const std::string& doc, int64_t min) {
  app.add_option_function<std::string>(
         name,
         [&value, name, min](const std::string& text) {
           const std::string why = read_integer(text, value);
           if (!why.empty()) throw Error(Exit::usage, cat(name, " ", text, ": ", why));
           if (value < min) throw Error(Exit::usage, cat(name, " ", text, ": must be at least ", min));
         },
         doc)
      ->type_name("COUNT")
      ->default_str(value > 0 ? cat(value) : "");
}

void add_number(CLI::App& app, const std::string& name, double& value, const std::string& doc, double min,
                double max) {
  app.add_option_function<std::string>(
         name,
         [&value, name, min, max](const std::string& text) {
           const std::string why = read_real(text, value);
           if (!why.empty()) throw Error(Exit::usage, cat(name, " ", text, ": ", why));
           if (value < min || value > max)
             throw Error(Exit::usage, cat(name, " ", text, ": must be from ", min, " to ", max));
         },
         doc)
      ->type_name("NUMBER")
      ->default_str(cat(value));
}

void add_choice(CLI::App& app, const std::string& name, std::string& value,
                const std::vector<std::string>& words, const std::string& doc) {
  app.add_option_function<std::string>(
         name,
         [&value, name, words](const std::string& text) {
           value = text;
           if (std::find(words.begin(), words.end(), text) != words.end()) return;
           const std::string near = nearest_word(text, words);
           throw Error(Exit::usage, cat(name, " ", text, ": not one of ", either(words),
                                        near.empty() ? "" : cat(" (did you mean ", near, "?)")));
         },
         doc)
      ->type_name(either(words))
      ->default_str(value);
}

void add_json(CLI::App& app, bool& json) {
  app.add_flag("--json", json, "Answer as JSON on standard output");
}

void add_threads(CLI::App& app, int& threads) {
  app.add_option_function<std::string>(
         "--threads",
         [&threads](const std::string& text) {
           int64_t value = 0;
           if (!read_integer(text, value).empty() || value < 0 || value > 4096)
             throw Error(Exit::usage,
                         cat("--threads ", text, ": must be a whole number from 0 to 4096 (0: all cores)"));
           threads = int(value);
         },
         "Threads; 0: all cores that this process may use")
      ->type_name("N");
}

void add_set(CLI::App& app, std::vector<std::string>& set, const std::string& doc) {
  // One value each: `--set a=1 FILE` must not swallow FILE.
  app.add_option("--set", set, doc)->type_name("SECTION.KEY=VALUE")->allow_extra_args(false);
}

void add_device(CLI::App& app, std::string& device, const std::string& doc) {
  add_choice(app, "--device", device, {"auto", "cpu", "cuda"}, doc);
}

}  // namespace jambalaya
