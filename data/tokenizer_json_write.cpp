// Writes tokenizer.json by hand: two spaces per level, the order of keys that Hugging Face tokenizers uses.
#include "data/tokenizer_json.h"
#include "kernels/error.h"

namespace jambalaya {
namespace {

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (uint8_t(c) < 0x20)
          out += std::string("\\u00") + "0123456789abcdef"[c >> 4] + "0123456789abcdef"[c & 15];
        else
          out += c;
    }
  }
  return out + '"';
}

std::string joined(const std::vector<std::string>& items, const char* open, const char* close,
                   const char* indent) {
  if (items.empty()) return cat(open, close);
  std::string out = open;
  for (size_t i = 0; i < items.size(); i++) out += cat(i ? ",\n" : "\n", indent, "  ", items[i]);
  return out + "\n" + indent + close;
}

std::string added_tokens(const BpeModel& model) {
  std::vector<std::string> items;
  for (const AddedToken& t : model.added)
    items.push_back(cat("{\n      \"id\": ", t.id, ",\n      \"content\": ", quoted(t.content),
                        ",\n      \"single_word\": false,\n      \"lstrip\": ", t.lstrip,
                        ",\n      \"rstrip\": ", t.rstrip, ",\n      \"normalized\": ", t.normalized,
                        ",\n      \"special\": ", t.special, "\n    }"));
  return joined(items, "[", "]", "  ");
}

std::string pre_tokenizer(const std::string& regex) {
  return R"({
    "type": "Sequence",
    "pretokenizers": [
      {
        "type": "Split",
        "pattern": {
          "Regex": )" +
         quoted(regex) + R"(
        },
        "behavior": "Isolated",
        "invert": false
      },
      {
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": true,
        "use_regex": false
      }
    ]
  })";
}

/// One sequence "BOS A", two "BOS A BOS B".
std::string post_processor(const BpeModel& model) {
  if (model.bos < 0) return "null";
  std::string name = quoted(model.tokens[size_t(model.bos)]);
  auto item = [](const char* kind, const std::string& id) {
    return cat("{\n        \"", kind, "\": {\n          \"id\": ", id,
               ",\n          \"type_id\": 0\n        }\n      }");
  };
  std::string bos = item("SpecialToken", name), a = item("Sequence", "\"A\""), b = item("Sequence", "\"B\"");
  return cat("{\n    \"type\": \"TemplateProcessing\",\n    \"single\": ", joined({bos, a}, "[", "]", "    "),
             ",\n    \"pair\": ", joined({bos, a, bos, b}, "[", "]", "    "),
             ",\n    \"special_tokens\": {\n      ", name, ": {\n        \"id\": ", name,
             ",\n        \"ids\": [\n          ", model.bos,
             "\n        ],\n        \"tokens\": [\n          ", name, "\n        ]\n      }\n    }\n  }");
}

std::string bpe(const BpeModel& model) {
  std::vector<std::string> vocabulary, merges;
  for (size_t id = 0; id < model.tokens.size(); id++)
    if (model.in_vocabulary[id]) vocabulary.push_back(cat(quoted(model.tokens[id]), ": ", id));
  for (const Merge& m : model.merges)
    merges.push_back(cat("[\n        ", quoted(model.tokens[m.left]), ",\n        ",
                         quoted(model.tokens[m.right]), "\n      ]"));
  return cat(R"({
    "type": "BPE",
    "dropout": null,
    "unk_token": null,
    "continuing_subword_prefix": null,
    "end_of_word_suffix": null,
    "fuse_unk": false,
    "byte_fallback": false,
    "ignore_merges": )",
             model.ignore_merges, ",\n    \"vocab\": ", joined(vocabulary, "{", "}", "    "),
             ",\n    \"merges\": ", joined(merges, "[", "]", "    "), "\n  }");
}

}  // namespace

std::string write_tokenizer_json(const BpeModel& model) {
  JAMBALAYA_CHECK(!model.sentence_piece, "only byte-level tokenizers are made here");
  return cat(
      "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": ",
      added_tokens(model),
      ",\n  \"normalizer\": null,\n  \"pre_tokenizer\": ", pre_tokenizer(model.split_regex),
      ",\n  \"post_processor\": ", post_processor(model), R"(,
  "decoder": {
    "type": "ByteLevel",
    "add_prefix_space": true,
    "trim_offsets": true,
    "use_regex": true
  },
  "model": )",
      bpe(model), "\n}");
}

}  // namespace jambalaya
