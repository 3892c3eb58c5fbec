#include "data/loader.h"

#include <algorithm>

#include "data/loader_segments.h"
#include "kernels/error.h"

namespace jambalaya {

TrainStream::TrainStream(const TokenSplit& split, uint64_t seed, int64_t chunk)
    : split_(split), seed_(seed), chunk_(chunk), tokens_(int64_t(split.totals().tokens)) {
  check_not_empty(split);
  if (chunk < 1 || chunk >= int64_t(1) << 31)
    throw Error(Exit::usage, cat("a chunk of ", chunk, " tokens: it must be at least 1 and below 2^31"));
}

const EpochOrder& TrainStream::order(uint64_t epoch) {
  std::unique_ptr<EpochOrder>& slot = orders_[epoch % 2];
  if (!slot || slot->epoch() != epoch)
    slot = std::make_unique<EpochOrder>(split_.lengths(), seed_, epoch, chunk_);
  return *slot;
}

HostBatch TrainStream::rows(int64_t position, int64_t sequence_length, int64_t first, int64_t last) {
  HostBatch batch;
  reserve(batch, (last - first) * sequence_length);
  for (int64_t row = first; row < last; row++) {
    int64_t begin = position + row * sequence_length, left = sequence_length;
    pieces_.clear();
    while (left > 0) {
      const int64_t within = begin % tokens_, n = std::min(left, tokens_ - within);
      order(uint64_t(begin / tokens_)).append_pieces(within, n, pieces_);
      begin += n;
      left -= n;
    }
    for (const Piece& piece : pieces_) append_segment(split_, piece, batch);
  }
  return batch;
}

Loader::Loader(const TokenSplit& split, const LoaderOptions& options) : split_(split), options_(options) {
  if (options_.chunk == 0) options_.chunk = options_.sequence_length;
  JAMBALAYA_CHECK(options_.world >= 1 && options_.rank >= 0 && options_.rank < options_.world);
  stream_ = std::make_unique<TrainStream>(split, options_.seed, options_.chunk);
  set_shape(options_.sequence_length, options_.rows);
}

Loader::~Loader() { stop(); }

void Loader::stop() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
  ready_.reset();
  error_ = nullptr;
  stopping_ = false;
}

void Loader::start() {
  thread_ = std::thread([this] { work(); });
}

void Loader::set_shape(int64_t sequence_length, int64_t rows) {
  if (sequence_length < 1 || rows < 1)
    throw Error(Exit::usage,
                cat("batches of ", rows, " rows of ", sequence_length, " tokens: both must be at least 1"));
  if (rows < options_.world)
    throw Error(Exit::usage, cat("a batch of ", rows, " rows cannot be shared by ", options_.world,
                                 " data ranks; give at least one row to each"));
  stop();  // what was made ready has the old shape; the stream's position is that of what was handed out
  options_.sequence_length = sequence_length;
  options_.rows = rows;
  start();
}

void Loader::work() {
  const int64_t step = options_.rows * options_.sequence_length;
  const int64_t first = options_.rows * options_.rank / options_.world;
  const int64_t last = options_.rows * (options_.rank + 1) / options_.world;
  for (int64_t position = position_;; position += step) {
    std::optional<HostBatch> batch;
    std::exception_ptr error;
    try {
      batch = stream_->rows(position, options_.sequence_length, first, last);
    } catch (...) {
      error = std::current_exception();
    }
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopping_ || !ready_; });
    if (stopping_) return;
    ready_ = std::move(batch);
    error_ = error;
    changed_.notify_all();
    if (error) return;
  }
}

HostBatch Loader::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return ready_ || error_; });
  if (error_ && !ready_) std::rethrow_exception(error_);
  HostBatch batch = std::move(*ready_);
  ready_.reset();
  position_ += options_.rows * options_.sequence_length;
  samples_ += options_.rows;
  changed_.notify_all();
  return batch;
}

LoaderState Loader::state() const {
  return {.fingerprint = split_.fingerprint(),
          .seed = options_.seed,
          .chunk = options_.chunk,
          .position = position_,
          .samples = samples_,
          .epoch = position_ / stream_->tokens_per_epoch()};
}

void Loader::restore(const LoaderState& state) {
  if (state.fingerprint != split_.fingerprint())
    throw Error(Exit::usage,
                cat("the run was trained on other data: its loader's record is of the token store ",
                    state.fingerprint, ", this one is ", split_.fingerprint(),
                    "; give the store it used, or branch a new run"));
  stop();
  options_.seed = state.seed;
  options_.chunk = state.chunk;
  position_ = state.position;
  samples_ = state.samples;
  stream_ = std::make_unique<TrainStream>(split_, options_.seed, options_.chunk);
  start();
}

}  // namespace jambalaya
