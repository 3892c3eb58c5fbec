// jambalaya data encode | inspect
#include <algorithm>
#include <cstdio>

#include "data/dataset.h"
#include "data/tokenizer.h"
#include "train/commands/commands.h"
#include "train/json.h"
#include "train/run/log.h"

namespace jambalaya {

namespace {

StoreOptions store_options(const DataEncodeOptions& o) {
  StoreOptions options{.held_out_share = o.held_out};
  options.text.split_on = o.split_on.starts_with("regex:") ? o.split_on.substr(6) : o.split_on;
  options.text.invalid_utf8 = o.invalid == "replace" ? InvalidUtf8::replace : InvalidUtf8::reject;
  return options;
}

TokenizerRecord record_of(const Tokenizer& t) {
  if (t.bos() < 0 || t.eos() < 0)
    throw Error(Exit::bad_input,
                "the tokenizer has no begin-of-text or end-of-text token: documents could not be told apart");
  return {t.json(),         t.fingerprint(),  t.vocab_size(),
          int32_t(t.bos()), int32_t(t.eos()), int32_t(std::max<int64_t>(t.pad(), 0))};
}

Json totals_json(const SplitTotals& t) {
  Json o = Json::make_object();
  o.set("documents", int64_t(t.documents))
      .set("tokens", int64_t(t.tokens))
      .set("raw_bytes", int64_t(t.raw_bytes));
  return o;
}

void print_totals(const char* split, const SplitTotals& t) {
  std::printf("%-9s %10llu documents  %12llu tokens  %12llu bytes of text\n", split,
              static_cast<unsigned long long>(t.documents), static_cast<unsigned long long>(t.tokens),
              static_cast<unsigned long long>(t.raw_bytes));
}

/// Text fit for a terminal: control characters of a document must not steer it.
std::string shown(const std::string& text, size_t limit) {
  std::string out;
  for (char c : text.substr(0, limit))
    out += c == '\n'                     ? std::string("\\n")
           : uint8_t(c) < 32 || c == 127 ? std::string("?")
                                         : std::string(1, c);
  return text.size() > limit ? out + "..." : out;
}

void print_documents(const TokenSplit& split, const Tokenizer& tokenizer, int64_t count) {
  for (int64_t d = 0; d < std::min(count, split.documents()); d++) {
    std::vector<int32_t> ids = split.document(d);
    std::string text = tokenizer.decode(std::vector<uint32_t>(ids.begin(), ids.end()), true);
    std::printf("document %lld (%s, %zu tokens): %s\n", static_cast<long long>(d),
                shown(split.document_source(d), 80).c_str(), ids.size(), shown(text, 160).c_str());
  }
}

Json summary_json(const TokenSplit& split) {
  SplitSummary s = summarize(split);
  Json o = totals_json(s.totals);
  o.set("bytes_per_token", json_number(s.bytes_per_token))
      .set("shortest", int64_t(s.shortest))
      .set("median", int64_t(s.median))
      .set("longest", int64_t(s.longest));
  Json histogram = Json::make_array();
  for (uint64_t n : s.histogram) histogram.array.emplace_back(int64_t(n));
  o.set("length_histogram_log2", std::move(histogram));
  return o;
}

}  // namespace

int run_data_encode(const DataEncodeOptions& o) {
  Tokenizer tokenizer = Tokenizer::load(o.tokenizer);
  const bool parse_special = o.parse_special;
  auto encode = [&](std::string_view text, std::vector<int32_t>& ids) {
    thread_local std::vector<uint32_t> own;
    own.clear();
    tokenizer.encode_into(text, {.parse_special = parse_special}, own);
    ids.insert(ids.end(), own.begin(), own.end());
  };
  uint64_t told = 0;
  Manifest manifest =
      encode_dataset(o.files, o.output, record_of(tokenizer), encode, store_options(o),
                     o.threads > 0 ? o.threads : int(allowed_cores().size()), [&](const EncodeProgress& p) {
                       if (p.raw_bytes < told + (uint64_t(64) << 20)) return;
                       told = p.raw_bytes;
                       log_info(cat("encoded ", p.raw_bytes >> 20, " MiB, ", p.documents, " documents, ",
                                    p.tokens, " tokens (file ", p.files_done + 1, " of ", p.files, ")"));
                     });
  if (manifest.totals("train").documents == 0)
    log_warning(
        "no document is left for training: a .txt file is one document unless --split-on says where to cut "
        "it");
  if (o.json) {
    Json answer = Json::make_object();
    answer.set("output", o.output)
        .set("train", totals_json(manifest.totals("train")))
        .set("held_out", totals_json(manifest.totals("held-out")));
    std::puts(answer.text().c_str());
    return 0;
  }
  print_totals("train", manifest.totals("train"));
  print_totals("held-out", manifest.totals("held-out"));
  return 0;
}

int run_data_inspect(const DataInspectOptions& o) {
  Dataset dataset(o.folder);
  if (o.verify) dataset.verify();
  if (o.json) {
    const Manifest& m = dataset.manifest();
    Json answer = Json::make_object();
    answer.set("folder", o.folder)
        .set("vocab_size", m.vocab_size)
        .set("tokenizer_fingerprint", m.tokenizer_fingerprint)
        .set("shards", int64_t(m.shards.size()))
        .set("verified", o.verify);
    answer.set("train", summary_json(dataset.train())).set("held_out", summary_json(dataset.held_out()));
    std::puts(answer.text().c_str());
    return 0;
  }
  std::printf("%s: %zu shards, vocabulary %lld%s\n", o.folder.c_str(), dataset.manifest().shards.size(),
              static_cast<long long>(dataset.manifest().vocab_size), o.verify ? ", every byte verified" : "");
  for (const char* name : {"train", "held-out"}) {
    const TokenSplit& split = dataset.split(name);
    SplitSummary s = summarize(split);
    print_totals(name, s.totals);
    if (split.documents())
      std::printf("          %.3f bytes a token; documents of %u to %u tokens, median %u\n",
                  s.bytes_per_token, s.shortest, s.longest, s.median);
  }
  Tokenizer tokenizer = o.tokenizer.empty() ? Tokenizer::from_json(dataset.tokenizer_json(), o.folder)
                                            : Tokenizer::load(o.tokenizer);
  print_documents(dataset.train(), tokenizer, o.documents);
  return 0;
}

}  // namespace jambalaya
