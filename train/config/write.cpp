// The option table as text: the resolved config and its reference.
#include "train/config/options.h"

namespace jambalaya {

namespace {

std::string section_yaml(const Config& config, const std::string& section, const std::string& indent) {
  std::string out;
  for (const auto& option : config_options())
    if (option.get && option.section() == section)
      out += cat(indent, option.name(), ": ", option.get(config), "\n");
  return out;
}

std::string layers_comment(const ModelConfig& model, const std::string& indent) {
  std::string why;
  const std::string notation = notation_of(model, &why);
  return cat(indent, "# layers: ", notation.empty() ? why : notation, "\n");
}

std::string table_cell(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '|' ? "\\|" : std::string(1, c);
  return out;
}

const char* const kIntroduction = R"(# Configuration

Every option of a run. This page is made from the program's own table of options (`jambalaya config --reference`), and
a test fails when the two differ.

```
jambalaya train configs/readme.yaml --set train.steps=500 --set optimizer.lr=2e-3
jambalaya config configs/readme.yaml --set train.steps=500      # the resolved config, nothing is run
```

A config is a YAML file of sections. What is not given has its default. `--set section.key=value` overrides one value
and may be repeated; the last one counts. The run's folder gets the resolved config, with every value written out.

```yaml
schema_version: 1
extends: base.yaml        # optional: another file in the same folder or below, whose values this one overrides
model:
  notation: 8/1:7/2/4/2
  hidden_size: 192
train:
  steps: 300
```

**Everything wrong is reported at once**, each with `file:line:column` (or the `--set`), the value, the rule and the
nearest valid choice, and the program ends with exit code 2 before anything is computed. Errors are: unknown keys,
duplicate keys, values of the wrong type or out of range, and values that do not fit together.

**Numbers.** Whole numbers may have a suffix: `k`, `M`, `G` are powers of 1000, `Ki`, `Mi`, `Gi` powers of 1024 (`64k` =
64000, `64Ki` = 65536). Truth values are `true` and `false` alone. Numbers with a leading zero, hexadecimal numbers, NaN and
infinities are refused.

**Not accepted**, because they are read differently by different programs or hide what is set: anchors and aliases,
merge keys (`<<`), tags, several documents in a file, text that is not UTF-8. A config has at most 1 MiB, 10000 values
and 32 levels; bases nest at most 8 deep.

**Notation of the layers.** `l/a:m/e/n/K` with an optional `xB`: blocks of l layers with a attention layers to m Mamba
layers; experts in every e-th layer, n of them, K for each token; B such blocks. Without `/e/n/K` there are no experts.

| notation | meaning |
|---|---|
| `8/1:7/2/16/2x4` | Jamba-v0.1: 32 layers, attention at 4, 12, 20 and 28, 16 experts in every second layer |
| `8/1:7x3` | 24 layers without experts |
| `8/1:0` | attention alone |
| `8/0:1` | Mamba alone |
| `8/3:5` | three attention layers in eight, evenly spaced: MAMMAMAM |

a + m divides l; e is at most l, and divides it when there are several blocks; K is at most n. Attention stands at half
its period and experts at 1 (0 when e is 1), as in the paper; `attn_layer_offset` and `expert_layer_offset` beside the
notation move them. Any other key that says something else than the notation in the same file, or than the notation
it overrides, is an error. A notation that overrides (from `--set` or an extending file) replaces the keys below it.
)";

}  // namespace

std::string to_yaml(const Config& config) {
  std::string out = "schema_version: 1\n";
  for (const auto& section : config_sections()) {
    out += cat(section.name, ":\n");
    if (section.name == "model") out += layers_comment(config.model, "  ");
    out += section_yaml(config, section.name, "  ");
  }
  return out;
}

std::string model_to_yaml(const ModelConfig& model) {
  Config config;
  config.model = model;
  return layers_comment(model, "") + section_yaml(config, "model", "");
}

std::string configuration_reference() {
  const Config defaults;
  std::string out = kIntroduction;
  for (const auto& section : config_sections()) {
    out += cat("\n## ", section.name, "\n\n", section.doc,
               "\n\n| key | type | default | values | meaning |\n|---|---|---|---|---|\n");
    for (const auto& option : config_options()) {
      if (option.section() != section.name) continue;
      const std::string value = option.get ? cat("`", option.get(defaults), "`") : "";
      out += cat("| `", option.name(), "` | ", option.type, " | ", table_cell(value), " | ",
                 table_cell(option.range), " | ", table_cell(option.doc), " |\n");
    }
  }
  return out;
}

}  // namespace jambalaya
