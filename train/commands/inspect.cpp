// jambalaya inspect: what a path holds. Every answer comes from the strict readers, so that a file which
// training would refuse is refused here too.
#include <cstdio>
#include <filesystem>

#include "data/dataset.h"
#include "data/tokenizer.h"
#include "train/checkpoint/checkpoint.h"
#include "train/commands/commands.h"
#include "train/config.h"
#include "train/files.h"
#include "train/interop/huggingface.h"
#include "train/interop/safetensors.h"
#include "train/json.h"

namespace jambalaya {
namespace {

namespace fs = std::filesystem;

Json tensor_json(const std::string& name, const std::string& type, const std::vector<int64_t>& shape) {
  Json json = Json::make_object();
  json.set("name", name);
  json.set("type", type);
  json.set("shape", shape);
  return json;
}

void add_model(Json& facts, const ModelConfig& config) {
  const ParameterCount count = count_parameters(config);
  std::string why;
  const std::string notation = notation_of(config, &why);
  facts.set("notation", notation.empty() ? why : notation);
  facts.set("layers", config.num_hidden_layers);
  facts.set("hidden_size", config.hidden_size);
  facts.set("vocab_size", config.vocab_size);
  facts.set("parameters", count.total);
  facts.set("active_parameters", count.active);
}

/// `damaged`: of checkpoints that were passed over.
Json of_checkpoint(const InspectOptions& options, std::string& damaged) {
  const CheckpointInfo info = resolve_checkpoint(options.path, &damaged);
  Json facts = Json::make_object(), tensors = Json::make_array();
  facts.set("kind", "checkpoint");
  facts.set("path", info.path);
  facts.set("step", info.state.step);
  facts.set("tokens", info.state.tokens);
  facts.set("weights_only", info.weights_only);
  facts.set("written_by_ranks", info.world_size);
  if (!info.state.layout.empty()) facts.set("layout", info.state.layout);
  if (info.state.rows_per_step) facts.set("rows_per_step", info.state.rows_per_step);
  if (info.state.accumulation_steps) facts.set("accumulation_steps", info.state.accumulation_steps);
  int64_t bytes = 0;
  for (const auto& file : info.files) bytes += file.bytes;
  facts.set("bytes", bytes);
  facts.set("tensors", int64_t(info.tensors.size()));
  add_model(facts, info.model);
  for (const auto& tensor : info.tensors)
    tensors.array.push_back(tensor_json(tensor.name, "F32", tensor.global_shape));
  if (options.tensors) facts.set("tensor_list", std::move(tensors));
  return facts;
}

Json of_safetensors(const InspectOptions& options) {
  const SafeTensorsFile file(options.path);
  Json facts = Json::make_object(), tensors = Json::make_array();
  facts.set("kind", "safetensors");
  facts.set("tensors", int64_t(file.tensors().size()));
  int64_t elements = 0;
  for (const SafeTensor& tensor : file.tensors()) {
    elements += tensor.numel();
    tensors.array.push_back(tensor_json(tensor.name, name_of(tensor.type), tensor.shape));
  }
  facts.set("elements", elements);
  if (options.tensors) facts.set("tensor_list", std::move(tensors));
  return facts;
}

Json of_model_folder(const InspectOptions& options) {
  const ModelConfig config = read_model_config(options.path);
  check_weights(options.path, config);
  Json facts = Json::make_object(), tensors = Json::make_array();
  facts.set("kind", "model folder");
  add_model(facts, config);
  const SafeTensorsFolder files(options.path);
  facts.set("tensors", int64_t(files.entries().size()));
  for (const auto& [name, entry] : files.entries())
    tensors.array.push_back(tensor_json(name, name_of(entry.tensor->type), entry.tensor->shape));
  if (options.tensors) facts.set("tensor_list", std::move(tensors));
  return facts;
}

Json id_and_text(const Tokenizer& tokenizer, int64_t id) {
  return id < 0 ? Json("none") : Json(cat(id, " ", tokenizer.model().tokens[size_t(id)]));
}

Json of_tokenizer(const InspectOptions& options) {
  const Tokenizer tokenizer = Tokenizer::load(options.path);
  const BpeModel& model = tokenizer.model();
  Json facts = Json::make_object();
  facts.set("kind", "tokenizer");
  facts.set("type", model.sentence_piece ? "BPE over characters (SentencePiece-shaped)" : "byte-level BPE");
  facts.set("vocabulary", tokenizer.vocab_size());
  facts.set("merges", int64_t(model.merges.size()));
  facts.set("added_tokens", int64_t(model.added.size()));
  facts.set("bos", id_and_text(tokenizer, tokenizer.bos()));
  facts.set("eos", id_and_text(tokenizer, tokenizer.eos()));
  facts.set("pad", id_and_text(tokenizer, tokenizer.pad()));
  facts.set("unk", id_and_text(tokenizer, tokenizer.unk()));
  facts.set("puts_bos_first", model.bos >= 0);
  if (model.sentence_piece) {
    const SentencePieceModel& piece = *model.sentence_piece;
    facts.set("byte_fallback", piece.byte_fallback);
    facts.set("fuse_unk", piece.fuse_unk);
    facts.set("normalizer_steps", int64_t(piece.normalizer.size()));
    facts.set("metaspace", piece.metaspace.has_value());
    facts.set("decoder_steps", int64_t(piece.decoder.size()));
  } else {
    facts.set("split", model.split_regex);
    facts.set("exact_split", tokenizer.exact_split());
  }
  facts.set("fingerprint", tokenizer.fingerprint());
  return facts;
}

Json of_data_folder(const InspectOptions& options) {
  const Dataset dataset(options.path);
  if (options.verify) dataset.verify();
  Json facts = Json::make_object();
  facts.set("kind", "token data");
  facts.set("train_documents", dataset.train().documents());
  facts.set("held_out_documents", dataset.held_out().documents());
  return facts;
}

Json of_config(const InspectOptions& options) {
  const Config config = load_config(options.path, {});
  Json facts = Json::make_object();
  facts.set("kind", "config");
  add_model(facts, config.model);
  facts.set("steps", config.train.steps);
  return facts;
}

Json facts_of(const InspectOptions& options, std::string& damaged) {
  const fs::path path(options.path);
  const std::string extension = path.extension().string();
  std::error_code error;
  if (!fs::exists(path, error)) throw Error(Exit::bad_input, cat(options.path, ": no such file or folder"));
  if (!fs::is_directory(path, error)) {
    if (extension == ".yaml" || extension == ".yml") return of_config(options);
    if (extension == ".safetensors") return of_safetensors(options);
    if (extension == ".json") return of_tokenizer(options);
    throw Error(Exit::usage, cat(options.path,
                                 ": a config (.yaml), tokenizer.json, .safetensors, or the folder of a "
                                 "checkpoint, run, model or token data is expected"));
  }
  if (holds_safetensors(options.path)) return of_model_folder(options);
  // Token data has a manifest.json too, but its shards lie beside it under another name than a checkpoint's.
  const bool has_manifest = fs::exists(path / "manifest.json", error);
  if (has_manifest && path.filename().string().rfind("step-", 0) != 0) {
    const Json manifest =
        parse_json(read_small_file((path / "manifest.json").string(), int64_t(1) << 30), options.path);
    if (!manifest.find("self_hash")) return of_data_folder(options);
  }
  return of_checkpoint(options, damaged);
}

void print_facts(const Json& facts) {
  for (const auto& [key, value] : facts.object) {
    if (key == "tensor_list") {
      for (const Json& tensor : value.array)
        std::printf("  %-70s %-5s %s\n", tensor.find("name")->string.c_str(),
                    tensor.find("type")->string.c_str(), tensor.find("shape")->text().c_str());
    } else {
      std::printf("%-18s %s\n", key.c_str(),
                  value.is(Json::Kind::string) ? value.string.c_str() : value.text().c_str());
    }
  }
}

}  // namespace

int run_inspect(const InspectOptions& options) {
  std::string damaged;
  const Json facts = facts_of(options, damaged);
  std::fputs(damaged.c_str(), stderr);
  if (options.json)
    std::printf("%s\n", facts.text().c_str());
  else
    print_facts(facts);
  // Without --verify the question is what the run holds, and that was answered.
  if (options.verify && !damaged.empty())
    throw Error(Exit::checkpoint, cat(options.path,
                                      ": holds damaged checkpoints (above); what is shown is the newest that "
                                      "is whole, and the one that --resume auto takes"));
  return int(Exit::ok);
}

}  // namespace jambalaya
