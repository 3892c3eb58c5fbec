#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>

#include "data/dataset.h"
#include "data/file_io.h"
#include "kernels/error.h"
#include "kernels/philox.h"
#include "kernels/thread_pool.h"

namespace jambalaya {

namespace {

/// Documents that are read, then encoded, then stored together.
struct Portion {
  struct Document {
    std::string text;
    size_t source = 0;
    uint64_t hash = 0;
    std::vector<int32_t> ids;
  };
  std::vector<Document> documents;
  size_t files_done = 0;  ///< when the last of them was read
};

/// Reads documents of all files in order, a few megabytes at a time.
class PortionReader {
 public:
  PortionReader(const std::vector<std::string>& files, const TextOptions& options)
      : files_(files), options_(options) {}

  Portion next() {
    constexpr size_t enough = 4 << 20;
    Portion portion;
    for (size_t bytes = 0; bytes < enough && file_ < files_.size();) {
      if (!reader_) reader_.emplace(files_[file_], options_);
      Portion::Document document{.source = file_};
      if (reader_->next(document.text)) {
        bytes += document.text.size();
        portion.documents.push_back(std::move(document));
      } else {
        reader_.reset();
        file_++;
      }
    }
    portion.files_done = file_;
    return portion;
  }

 private:
  const std::vector<std::string>& files_;
  TextOptions options_;
  size_t file_ = 0;
  std::optional<TextReader> reader_;
};

/// The shards of one split, written one after another.
class SplitWriter {
 public:
  SplitWriter(std::string folder, std::string split, const TokenizerRecord& tokenizer,
              const StoreOptions& options)
      : folder_(std::move(folder)),
        split_(std::move(split)),
        limit_(uint64_t(options.shard_bytes)),
        width_(tokenizer.vocab_size <= 1 << 16 ? 2 : 4),
        writer_(tokenizer, split_, options.split_seed) {}

  void add(const Portion::Document& document, const std::string& source) {
    const uint64_t bytes = (document.ids.size() + 2) * width_ + 28;
    if (writer_.documents() > 0 && writer_.bytes() + bytes > limit_) finish();
    writer_.add(document.ids, document.text.size(), document.hash, source);
  }
  void finish() {
    if (writer_.documents() == 0) return;
    std::string number = std::to_string(records_.size());
    number.insert(0, number.size() < 5 ? 5 - number.size() : 0, '0');
    records_.push_back(writer_.finish(folder_, split_ + "-" + number + ".tok.h5"));
  }
  const std::vector<ShardRecord>& records() const { return records_; }

 private:
  std::string folder_, split_;
  uint64_t limit_, width_;
  ShardWriter writer_;
  std::vector<ShardRecord> records_;
};

void prepare_folder(const std::string& folder, bool overwrite) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw Error(Exit::io, cat(folder, ": cannot be made: ", error.message()));
  const std::string manifest = folder + "/manifest.json";
  if (!fs::exists(manifest)) return;
  if (!overwrite)
    throw Error(Exit::usage,
                cat(folder, ": holds a token store already; choose another folder, or ask to overwrite it"));
  // The manifest goes first: what remains is then an unfinished store, never a mixture of two.
  const Manifest old = parse_manifest(std::string(MappedFile(manifest).text()), manifest);
  fs::remove(manifest);
  for (const ShardRecord& shard : old.shards) fs::remove(folder + "/" + shard.name, error);
}

void check_options(const std::vector<std::string>& files, const StoreOptions& options) {
  if (files.empty()) throw Error(Exit::usage, "no text files are given");
  if (!(options.held_out_share >= 0 && options.held_out_share < 1))
    throw Error(Exit::usage,
                cat("held-out share ", options.held_out_share, " must be at least 0 and below 1"));
  if (options.shard_bytes < 1 || options.shard_bytes > int64_t(1) << 31)
    throw Error(Exit::usage, cat("shard size ", options.shard_bytes, " must be from 1 byte to 2 GiB"));
  // All files are looked at before the first is encoded: a wrong name must not show up after an hour.
  for (const std::string& file : files)
    if (!std::filesystem::exists(file)) throw Error(Exit::bad_input, cat(file, ": no such file"));
}

}  // namespace

bool is_held_out(uint64_t document_hash, double share, uint64_t split_seed) {
  const PhiloxBlock bits = philox(hash_name(split_seed, "held-out"), document_hash);
  return double(uint64_t(bits[0]) << 21 | bits[1] >> 11) * 0x1p-53 < share;  // 53 bits: [0, 1)
}

Manifest encode_dataset(const std::vector<std::string>& files, const std::string& folder,
                        const TokenizerRecord& tokenizer, const EncodeFunction& encode,
                        const StoreOptions& options, int threads,
                        const std::function<void(const EncodeProgress&)>& progress) {
  check_options(files, options);
  prepare_folder(folder, options.overwrite);
  Manifest manifest{.tokenizer_fingerprint = tokenizer.fingerprint,
                    .vocab_size = tokenizer.vocab_size,
                    .bos = tokenizer.bos,
                    .eos = tokenizer.eos,
                    .pad = tokenizer.pad,
                    .held_out_share = options.held_out_share,
                    .split_seed = options.split_seed};
  for (const std::string& file : files) manifest.sources.push_back({.path = file});

  SplitWriter train(folder, "train", tokenizer, options), held_out(folder, "held-out", tokenizer, options);
  PortionReader reader(files, options.text);
  ThreadPool pool(std::max(1, threads));
  EncodeProgress done{.files = files.size()};
  std::vector<std::exception_ptr> errors;
  for (Portion portion = reader.next(), following; !portion.documents.empty();
       portion = std::move(following)) {
    // Chunk 0 reads the next portion while the others encode this one. Errors are thrown in the order of the
    // text, whatever thread met them: the message does not depend on the threads either.
    const int64_t n = int64_t(portion.documents.size());
    errors.assign(size_t(n) + 1, nullptr);
    pool.run(n + 1, [&](int64_t chunk) {
      try {
        if (chunk == 0) {
          following = reader.next();
        } else {
          Portion::Document& document = portion.documents[size_t(chunk) - 1];
          document.hash = xxh3_64(document.text);
          encode(document.text, document.ids);
        }
      } catch (...) {
        errors[size_t(chunk)] = std::current_exception();
      }
    });
    std::rotate(errors.begin(), errors.begin() + 1, errors.end());
    for (const std::exception_ptr& error : errors)
      if (error) std::rethrow_exception(error);
    for (const Portion::Document& document : portion.documents) {
      const bool held = is_held_out(document.hash, options.held_out_share, options.split_seed);
      (held ? held_out : train).add(document, files[document.source]);
      manifest.sources[document.source].documents++;
      manifest.sources[document.source].raw_bytes += document.text.size();
      done.documents++;
      done.tokens += document.ids.size() + 2;
      done.raw_bytes += document.text.size();
    }
    done.files_done = portion.files_done;
    if (progress) progress(done);
  }
  if (done.documents == 0)
    throw Error(Exit::bad_input,
                cat(files.front(), ": no document with any text in ", files.size(), " files"));
  train.finish();
  held_out.finish();
  manifest.shards = train.records();
  manifest.shards.insert(manifest.shards.end(), held_out.records().begin(), held_out.records().end());
  write_file_atomically(folder + "/manifest.json", to_json(manifest));
  return manifest;
}

}  // namespace jambalaya
