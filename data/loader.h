// Hands out batches of packed rows. Training: an endless stream whose state is one small record. Evaluation:
// a fixed set of whole documents.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "data/batch.h"
#include "data/dataset.h"
#include "data/packing.h"

namespace jambalaya {

/// Rows begin at positions position, position + L, ... of the stream (data/packing.h). A target is the next
/// token of the same document, wherever that token lies: at a row's end too, so rows share nothing but never
/// lose a target. The last token of a document (its eos) has the target -100.
class TrainStream {
 public:
  /// `chunk` of packing.h: fixed for the whole run, best the longest sequence length that it will use.
  TrainStream(const TokenSplit& split, uint64_t seed, int64_t chunk);

  /// Rows [first, last) of the batch of rows of `sequence_length` tokens that begins at `position`.
  HostBatch rows(int64_t position, int64_t sequence_length, int64_t first, int64_t last);
  int64_t tokens_per_epoch() const { return tokens_; }
  const TokenSplit& split() const { return split_; }
  uint64_t seed() const { return seed_; }
  int64_t chunk() const { return chunk_; }

 private:
  const EpochOrder& order(uint64_t epoch);
  const TokenSplit& split_;
  uint64_t seed_;
  int64_t chunk_, tokens_;
  std::unique_ptr<EpochOrder> orders_[2];  // by parity: a row may reach into the next epoch
  std::vector<Piece> pieces_;
};

struct LoaderOptions {
  uint64_t seed = 1;
  int64_t sequence_length = 512;  ///< L
  int64_t rows = 1;               ///< B: rows of one call of next() over all ranks
  int64_t chunk = 0;              ///< 0: sequence_length. With a schedule of lengths: the longest
  int rank = 0, world = 1;        ///< rank r of W takes rows [B r / W, B (r + 1) / W): W need not divide B
};

/// Where a run stands. Does not know of ranks, batch sizes or sequence lengths: all of them may change at a
/// resume.
struct LoaderState {
  std::string fingerprint;  ///< of the split
  uint64_t seed = 0;
  int64_t chunk = 0;
  int64_t position = 0;  ///< tokens handed out to all ranks together
  int64_t samples = 0;   ///< rows handed out
  int64_t epoch = 0;     ///< position / tokens per epoch (for people to read)

  std::string to_json() const;
  /// Throws Error(checkpoint) when the text is no such record.
  static LoaderState parse(const std::string& json);
};

/// One rank's view of the stream. next() returns what a thread has made ready in the meantime.
class Loader {
 public:
  /// Throws Error(bad_input) when the split has no document, Error(usage) when W > 1 leaves ranks without any
  /// row.
  Loader(const TokenSplit& split, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// This rank's rows of the next batch. An error of the thread (a damaged block) is thrown here.
  HostBatch next();
  /// As of the last next(): a loader restored from it gives what would have come after.
  LoaderState state() const;
  /// Error(usage) when the record belongs to other data; its seed and chunk are taken over.
  void restore(const LoaderState& state);
  /// From the next batch on: rows of another length, another number of them. The stream goes on where it
  /// stands.
  void set_shape(int64_t sequence_length, int64_t rows);

 private:
  void work();
  void stop();
  void start();

  const TokenSplit& split_;
  LoaderOptions options_;
  std::unique_ptr<TrainStream> stream_;
  int64_t position_ = 0, samples_ = 0;

  std::thread thread_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<HostBatch> ready_;
  std::exception_ptr error_;
  bool stopping_ = false;
};

/// Held-out text in a fixed order, for bits per byte.
///
/// Only whole documents are counted, so that their bytes are known: bits per byte = (sum of nats over all
/// counted targets) / ln 2 / bytes(). Every token but the bos is a target, the eos included (a model has to
/// say where a text ends). With a limit, documents are taken in a shuffled order that depends on nothing but
/// their number, up to the first that would exceed the limit, but at least one; they are laid out in stored
/// order and cut into rows.
class HeldOut {
 public:
  /// `max_tokens` 0: all documents. Throws Error(bad_input) when the split has no document.
  HeldOut(const TokenSplit& split, int64_t sequence_length, int64_t rows, int64_t max_tokens = 0);

  int64_t batches() const;
  int64_t documents() const { return int64_t(chosen_.size()); }
  int64_t tokens() const { return starts_.back(); }
  int64_t targets() const { return tokens() - documents(); }  ///< over all batches and ranks
  uint64_t bytes() const { return bytes_; }
  /// This rank's rows of batch `index`; the last row of all may be shorter, and a rank may have none.
  HostBatch batch(int64_t index, int rank = 0, int world = 1) const;

 private:
  const TokenSplit& split_;
  int64_t sequence_length_, rows_;
  std::vector<int64_t> chosen_, starts_;  // documents; where each begins among the chosen, and the end
  uint64_t bytes_ = 0;
};

}  // namespace jambalaya
