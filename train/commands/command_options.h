// Kinds of options that several commands have. What the user writes wrong is thrown as Error(usage).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace jambalaya {

/// A whole number of at least `min`, with suffixes as in a config: 64Ki, 1M.
void add_count(CLI::App& app, const std::string& name, int64_t& value, const std::string& doc,
               int64_t min = 0);
/// A number from `min` to `max`.
void add_number(CLI::App& app, const std::string& name, double& value, const std::string& doc, double min,
                double max);
/// One of `words`.
void add_choice(CLI::App& app, const std::string& name, std::string& value,
                const std::vector<std::string>& words, const std::string& doc);
/// --json
void add_json(CLI::App& app, bool& json);
/// --threads N, from 0 to 4096
void add_threads(CLI::App& app, int& threads);
/// --set SECTION.KEY=VALUE, which may be repeated.
void add_set(CLI::App& app, std::vector<std::string>& set, const std::string& doc);

inline constexpr const char* kDeviceDoc =
    "Where the model is computed; auto: a GPU for each rank where there is one, else the CPU";
/// --device
void add_device(CLI::App& app, std::string& device, const std::string& doc = kDeviceDoc);

}  // namespace jambalaya
