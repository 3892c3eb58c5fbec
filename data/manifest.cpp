#include <nlohmann/json.hpp>

#include "data/dataset.h"
#include "data/file_io.h"
#include "kernels/error.h"

namespace jambalaya {

namespace {

using Json = nlohmann::ordered_json;

constexpr const char* format = "jambalaya-dataset";
constexpr int version = 1;

Json without_checksum(const Manifest& m) {
  Json json;
  json["format"] = format;
  json["format_version"] = version;
  json["tokenizer_fingerprint"] = m.tokenizer_fingerprint;
  json["vocab_size"] = m.vocab_size;
  json["bos_id"] = m.bos;
  json["eos_id"] = m.eos;
  json["pad_id"] = m.pad;
  json["held_out_share"] = m.held_out_share;
  json["split_seed"] = m.split_seed;
  for (const char* split : {"train", "held-out"}) {
    const SplitTotals t = m.totals(split);
    json["totals"][split] = {{"documents", t.documents}, {"tokens", t.tokens}, {"raw_bytes", t.raw_bytes}};
  }
  json["sources"] = Json::array();
  for (const Manifest::Source& s : m.sources)
    json["sources"].push_back({{"path", s.path}, {"documents", s.documents}, {"raw_bytes", s.raw_bytes}});
  json["shards"] = Json::array();
  for (const ShardRecord& s : m.shards)
    json["shards"].push_back({{"name", s.name},
                              {"split", s.split},
                              {"documents", s.documents},
                              {"tokens", s.tokens},
                              {"raw_bytes", s.raw_bytes},
                              {"file_bytes", s.file_bytes},
                              {"xxh3_128", s.hash}});
  return json;
}

/// File names may hold bytes that are not UTF-8; in the manifest those become U+FFFD.
std::string print(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Manifest read_fields(const Json& json) {
  Manifest m;
  m.tokenizer_fingerprint = json.at("tokenizer_fingerprint");
  m.vocab_size = json.at("vocab_size");
  m.bos = json.at("bos_id");
  m.eos = json.at("eos_id");
  m.pad = json.at("pad_id");
  m.held_out_share = json.at("held_out_share");
  m.split_seed = json.at("split_seed");
  for (const Json& s : json.at("sources"))
    m.sources.push_back(
        {.path = s.at("path"), .documents = s.at("documents"), .raw_bytes = s.at("raw_bytes")});
  for (const Json& s : json.at("shards"))
    m.shards.push_back({.name = s.at("name"),
                        .split = s.at("split"),
                        .tokens = s.at("tokens"),
                        .documents = s.at("documents"),
                        .raw_bytes = s.at("raw_bytes"),
                        .file_bytes = s.at("file_bytes"),
                        .hash = s.at("xxh3_128")});
  return m;
}

}  // namespace

SplitTotals Manifest::totals(std::string_view split) const {
  SplitTotals t;
  for (const ShardRecord& s : shards) {
    if (s.split != split) continue;
    t.documents += s.documents;
    t.tokens += s.tokens;
    t.raw_bytes += s.raw_bytes;
  }
  return t;
}

std::string to_json(const Manifest& manifest) {
  Json json = without_checksum(manifest);
  json["checksum"] = xxh3_hex(print(json));
  return print(json);
}

Manifest parse_manifest(const std::string& text, const std::string& path) {
  Manifest manifest;
  try {
    const Json json = Json::parse(text);
    if (json.value("format", "") != format)
      throw Error(Exit::bad_input, cat(path, ": not the manifest of a token store"));
    if (json.value("format_version", 0) != version)
      throw Error(Exit::bad_input, cat(path, ": format version ", json.value("format_version", 0),
                                       "; this program reads ", version));
    manifest = read_fields(json);
  } catch (const nlohmann::json::exception& error) {
    throw Error(Exit::bad_input, cat(path, ": damaged: ", error.what()));
  }
  if (to_json(manifest) != text)
    throw Error(Exit::bad_input, cat(path, ": damaged or edited: its checksum does not fit; encode again"));
  for (const ShardRecord& shard : manifest.shards) {
    if (shard.name.empty() || shard.name.find('/') != std::string::npos || shard.name[0] == '.')
      throw Error(Exit::bad_input, cat(path, ": shard name '", shard.name, "' is not a plain file name"));
    if (shard.split != "train" && shard.split != "held-out")
      throw Error(Exit::bad_input, cat(path, ": shard '", shard.name, "' is of split '", shard.split,
                                       "'; there are train and held-out"));
  }
  return manifest;
}

}  // namespace jambalaya
