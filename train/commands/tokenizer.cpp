// jambalaya tokenizer train | encode | decode
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "data/bpe_train.h"
#include "data/text_reader.h"
#include "data/tokenizer.h"
#include "train/commands/commands.h"
#include "train/files.h"
#include "train/json.h"
#include "train/run/log.h"

namespace jambalaya {

namespace {

int thread_count(int asked) { return asked > 0 ? asked : int(allowed_cores().size()); }

bool is_plain_text(const std::string& path) {
  return !path.ends_with(".jsonl") && !path.ends_with(".gz") && !path.ends_with(".zst");
}

/// Told at every tenth of a phase.
class Progress {
 public:
  void operator()(const TrainProgress& p) {
    const bool merging = p.phase == TrainProgress::Phase::merging;
    const int64_t tenth = p.total ? int64_t(10 * p.done / p.total) : 10;
    if (merging == merging_ && tenth == tenth_) return;
    merging_ = merging;
    tenth_ = tenth;
    if (merging)
      log_info(cat("merging: ", p.done, " of ", p.total, " ids from ", p.unique_words, " different words"));
    else
      log_debug(cat("counting: ", p.done >> 20, " of ", p.total >> 20, " MiB, ", p.unique_words,
                    " different words"));
  }

 private:
  bool merging_ = false;
  int64_t tenth_ = -1;
};

uint32_t as_id(const Json& value, const std::string& where) {
  if (!value.is(Json::Kind::integer) || value.integer < 0 || value.integer > UINT32_MAX)
    throw Error(Exit::bad_input, cat(where, ": ", value.text(), " is not a token id"));
  return uint32_t(value.integer);
}

/// A line of ids in one of the three forms that `tokenizer decode` takes.
std::vector<uint32_t> parse_ids(const std::string& line, const std::string& where) {
  std::vector<uint32_t> ids;
  const size_t first = line.find_first_not_of(" \t\r");
  if (first != std::string::npos && (line[first] == '[' || line[first] == '{')) {
    const Json json = parse_json(line, where);
    const Json* list = json.is(Json::Kind::object) ? json.find("ids") : &json;
    if (!list || !list->is(Json::Kind::array))
      throw Error(Exit::bad_input, where + ": an object without a list \"ids\"");
    for (const Json& value : list->array) ids.push_back(as_id(value, where));
    return ids;
  }
  std::istringstream words(line);
  for (std::string word; words >> word;) {
    uint32_t id = 0;
    auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || end != word.data() + word.size())
      throw Error(Exit::bad_input,
                  cat(where, ": \"", word, "\" is not a token id; ids are numbers with blanks between them"));
    ids.push_back(id);
  }
  return ids;
}

}  // namespace

int run_tokenizer_train(const TokenizerTrainOptions& o) {
  if (std::filesystem::is_directory(o.output))
    throw Error(Exit::usage, cat("--output ", o.output, " is a folder: name a file, such as ", o.output,
                                 "/tokenizer.json"));
  create_folders(parent_folder(o.output));
  ThreadPool pool(thread_count(o.threads));
  BpeTrainOptions options{.vocab_size = o.vocab_size};
  options.progress = Progress();
  BpeTrainer trainer(options, pool);
  for (const std::string& file : o.files) {
    if (is_plain_text(file)) {
      trainer.add_file(file);
    } else {
      TextReader reader(file, {});
      for (std::string text; reader.next(text);) trainer.add_text(text, file);
    }
    log_info(cat("counted ", file, ": ", trainer.unique_words(), " different words so far"));
  }
  BpeModel model = trainer.finish();
  Tokenizer tokenizer = Tokenizer::from_model(model);
  tokenizer.save(o.output);
  if (tokenizer.vocab_size() < o.vocab_size)
    log_warning(cat("the text has only ", tokenizer.vocab_size(), " ids in it, ", o.vocab_size,
                    " were asked for: give more text, or a smaller --vocab-size"));
  if (o.json) {
    Json answer = Json::make_object();
    answer.set("output", o.output)
        .set("vocab_size", tokenizer.vocab_size())
        .set("unique_words", int64_t(trainer.unique_words()))
        .set("fingerprint", tokenizer.fingerprint());
    std::puts(answer.text().c_str());
  } else {
    log_info(cat("wrote ", o.output, " with ", tokenizer.vocab_size(), " ids"));
  }
  log_warnings_box();
  return 0;
}

int run_tokenizer_encode(const TokenizerEncodeOptions& o) {
  Tokenizer tokenizer = Tokenizer::load(o.tokenizer);
  if (!tokenizer.exact_split())
    log_warning(cat(o.tokenizer,
                    ": its split pattern is read by PCRE2, whose Unicode tables are older: ids may differ on "
                    "new scripts"));
  TextReader reader(o.file.empty() || o.file == "-" ? "/dev/stdin" : o.file, {});
  for (std::string text; reader.next(text);) {
    std::string line = o.json ? "[" : "";
    const char* between = "";
    for (uint32_t id :
         tokenizer.encode(text, {.parse_special = true})) {  // special tokens count, as in Hugging Face
      line += cat(between, id);
      between = o.json ? ", " : " ";
    }
    if (o.json) line += "]";
    std::puts(line.c_str());
  }
  return 0;
}

int run_tokenizer_decode(const TokenizerDecodeOptions& o) {
  const Tokenizer tokenizer = Tokenizer::load(o.tokenizer);
  const std::string name = o.file.empty() || o.file == "-" ? "/dev/stdin" : o.file;
  std::ifstream file(name);
  if (!file) throw Error(Exit::io, cat(name, ": ", std::strerror(errno)));
  int64_t number = 0;
  for (std::string line; std::getline(file, line);) {
    const std::string where = cat(name, ":", ++number);
    const std::vector<uint32_t> ids = parse_ids(line, where);
    for (uint32_t id : ids)
      if (id >= tokenizer.vocab_size())
        throw Error(Exit::bad_input,
                    cat(where, ": id ", id, " is outside the tokenizer's ", tokenizer.vocab_size(), " ids"));
    std::string text = tokenizer.decode(ids, o.skip_special);
    if (o.json) text = "{\"text\": " + Json(text).text() + "}\n";
    std::fwrite(text.data(), 1, text.size(), stdout);
  }
  if (file.bad()) throw Error(Exit::io, name + ": cannot be read");
  if (std::fflush(stdout) != 0) throw Error(Exit::io, cat("standard output: ", std::strerror(errno)));
  return 0;
}

}  // namespace jambalaya
