#include "train/report/run_report.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "train/config.h"
#include "train/config/options.h"
#include "train/files.h"
#include "train/report/html.h"
#include "train/report/run_panels.h"
#include "train/report/run_tables.h"
#include "train/report/scale.h"

namespace jambalaya {

namespace {

/// The run's config, unless it cannot be read by this version: its text is shown all the same.
std::optional<Config> config_of(const RunData& run) {
  if (run.config_yaml.empty()) return std::nullopt;
  try {
    return parse_config(run.config_yaml, run.folder + "/config.yaml");
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::string section(const std::string& title, const std::string& body) {
  return body.empty() ? "" : cat("<section>\n<h2>", title, "</h2>\n", body, "</section>\n");
}

std::string heading(const RunData& run, const std::optional<Config>& config, double now) {
  std::string model;
  if (config) {
    const ParameterCount n = count_parameters(config->model);
    std::string why;
    const std::string notation = notation_of(config->model, &why);
    model = cat(notation.empty() ? why : "layers " + notation, ", ", short_text(double(n.total)),
                " parameters, ", short_text(double(n.active)), " active a token, hidden ",
                config->model.hidden_size, ", vocabulary ", config->model.vocab_size);
  }
  return cat("<header>\n<h1>", escape_markup(run.name), "</h1>\n<p class=\"soft\">", escape_markup(model),
             "</p>\n<p class=\"soft\">", escape_markup(state_of(run)), "; this page is of ", time_text(now),
             "</p>\n</header>\n");
}

std::string charts(const RunData& run) {
  std::string s;
  for (const Panel& panel : run_panels(run)) s += line_chart(panel);
  return s.empty() ? "" : "<div class=\"charts\">\n" + s + "</div>\n";
}

std::string layers(const RunData& run) {
  std::string s;
  for (const HeatMap& map : run_heat_maps(run)) s += heat_map(map);
  return s + layer_table(run);
}

/// The resolved config; values that are not the default stand out.
std::string config_text(const RunData& run, const std::optional<Config>& config) {
  if (run.config_yaml.empty()) return "";
  if (!config) return cat("<pre>", escape_markup(run.config_yaml), "</pre>\n");
  const Config defaults;
  std::string s = "<p class=\"soft\">Every value; those that are not the default are bold.</p>\n<pre>";
  for (const SectionDoc& part : config_sections()) {
    s += part.name + ":\n";
    for (const Option& option : config_options()) {
      if (!option.get || option.section() != part.name) continue;
      const std::string value = option.get(*config),
                        line = cat("  ", option.name(), ": ", escape_markup(value));
      s += value == option.get(defaults) ? line + "\n" : cat("<b>", line, "</b>\n");
    }
  }
  return s + "</pre>\n";
}

}  // namespace

std::string run_report(const RunData& run, double now) {
  const std::optional<Config> config = config_of(run);
  const std::string body =
      heading(run, config, now) + tiles(run) + section("Curves", charts(run)) +
      section("Layers", layers(run)) + section("Samples", sample_tables(run)) +
      section("Where the time went", time_tables(run)) +
      section("Steps without an update", skipped_table(run)) + section("Jobs", session_table(run)) +
      section("Environment", environment_table(run)) + section("Config", config_text(run, config));
  return html_page(run.name + " — training report", body);
}

void write_run_report(const RunData& run, const std::string& path) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  replace_file(path.empty() ? run.folder + "/report.html" : path,
               run_report(run, std::chrono::duration<double>(now).count()));
}

}  // namespace jambalaya
