// Kinds of options that several commands have.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace jambalaya {

/// Takes suffixes as in a config: 64Ki, 1M.
void add_count(CLI::App& app, const std::string& name, int64_t& value, const std::string& doc,
               int64_t min = 0);
void add_number(CLI::App& app, const std::string& name, double& value, const std::string& doc, double min,
                double max);
/// One of `words`; another is an error that names the nearest.
void add_choice(CLI::App& app, const std::string& name, std::string& value,
                const std::vector<std::string>& words, const std::string& doc);
void add_json(CLI::App& app, bool& json);
void add_threads(CLI::App& app, int& threads);
void add_set(CLI::App& app, std::vector<std::string>& set, const std::string& doc);

constexpr const char* kDeviceDoc =
    "Where the model is computed; auto: a GPU for each rank where there is one, else the CPU";
void add_device(CLI::App& app, std::string& device, const std::string& doc);

}  // namespace jambalaya
