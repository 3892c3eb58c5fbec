#include "data/bpe_train.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <set>

#include "data/bpe_merge.h"
#include "kernels/error.h"

namespace jambalaya {
namespace {

constexpr size_t kBlock = 4 << 20;  // bytes that one thread counts at a time

/// A whole file, mapped; what cannot be mapped (a pipe) is read.
class FileText {
 public:
  explicit FileText(const std::string& path) {
    int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (fd < 0 || ::fstat(fd, &status) < 0 || S_ISDIR(status.st_mode)) {
      int error = fd >= 0 && S_ISDIR(status.st_mode) ? EISDIR : errno;
      if (fd >= 0) ::close(fd);
      throw Error(Exit::io, cat(path, ": ", std::strerror(error)));
    }
    if (S_ISREG(status.st_mode) && status.st_size > 0) {
      void* p = ::mmap(nullptr, size_t(status.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
      if (p != MAP_FAILED) {
        mapped_ = p;
        text_ = {static_cast<const char*>(p), size_t(status.st_size)};
        ::madvise(p, text_.size(), MADV_SEQUENTIAL);
      }
    }
    if (!mapped_) read_all(fd, path);
    ::close(fd);
  }
  ~FileText() {
    if (mapped_) ::munmap(mapped_, text_.size());
  }
  FileText(const FileText&) = delete;
  FileText& operator=(const FileText&) = delete;
  std::string_view text() const { return text_; }

 private:
  void read_all(int fd, const std::string& path) {
    for (;;) {
      size_t have = copy_.size();
      copy_.resize(have + (1 << 20));
      ssize_t got = ::read(fd, copy_.data() + have, 1 << 20);
      copy_.resize(have + size_t(std::max<ssize_t>(got, 0)));
      if (got == 0) break;
      if (got < 0 && errno != EINTR) {
        int error = errno;
        ::close(fd);
        throw Error(Exit::io, cat(path, ": ", std::strerror(error)));
      }
    }
    text_ = copy_;
  }
  void* mapped_ = nullptr;
  std::string copy_;
  std::string_view text_;
};

/// Ends of blocks of about kBlock bytes, each after a '\n' (or at the end).
std::vector<size_t> block_ends(std::string_view text, const std::string& origin) {
  std::vector<size_t> ends;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = text.size();
    if (end - begin > kBlock) {
      size_t line_end = text.find('\n', begin + kBlock);
      if (line_end != std::string_view::npos) end = line_end + 1;
    }
    if (end - begin > UINT32_MAX)
      throw Error(Exit::bad_input, cat(origin, ":", begin, ": a line longer than 4 GiB starts here"));
    ends.push_back(begin = end);
  }
  return ends;
}

void check_options(const BpeTrainOptions& o, const Pretokenizer& split) {
  auto refuse = [](const std::string& why) { throw Error(Exit::usage, "tokenizer training: " + why); };
  int64_t least = int64_t(o.special_tokens.size()) + 256;
  if (o.vocab_size < least || o.vocab_size > 65536)
    refuse(
        cat("vocabulary size ", o.vocab_size, " is outside ", least, " (special tokens and bytes) to 65536"));
  std::set<std::string> seen;
  for (const std::string& token : o.special_tokens) {
    if (token.empty() || find_invalid_utf8(token) != std::string::npos)
      refuse("a special token is empty or not UTF-8");
    if (!seen.insert(token).second) refuse("special token \"" + token + "\" is listed twice");
    uint32_t length[2];
    if (split.split(token, 0, length) == 1)  // merges could build a token with the same name
      refuse("special token \"" + token + "\" is an ordinary word; choose a form like <|" + token + "|>");
  }
  if (!o.bos.empty() && !seen.contains(o.bos))
    refuse("bos \"" + o.bos + "\" is not among the special tokens");
}

}  // namespace

BpeTrainer::BpeTrainer(BpeTrainOptions options, ThreadPool& pool)
    : options_(std::move(options)),
      pool_(pool),
      split_(options_.split_regex),
      counters_(size_t(pool.size())) {
  check_options(options_, split_);
}

void BpeTrainer::count_lines(std::string_view block, WordCounter& words) const {
  auto readable_end = reinterpret_cast<const uint8_t*>(block.data() + block.size());
  uint32_t lengths[256];
  while (!block.empty()) {
    size_t line_end = std::min(block.find('\n'), block.size() - 1) + 1;
    std::string_view line = block.substr(0, line_end);
    for (size_t at = 0; at < line.size();) {
      size_t count = split_.split(line, at, lengths);
      for (size_t i = 0; i < count; at += lengths[i++])
        words.add(reinterpret_cast<const uint8_t*>(line.data() + at), lengths[i], readable_end);
    }
    block.remove_prefix(line_end);
  }
}

void BpeTrainer::add_text(std::string_view text, const std::string& origin) {
  std::vector<size_t> ends = block_ends(text, origin);
  std::vector<std::string> errors(ends.size());
  std::vector<WordCounter*> idle;
  for (WordCounter& c : counters_) idle.push_back(&c);
  std::mutex guard;
  auto count_block = [&](size_t b) {
    WordCounter* words;
    {
      std::lock_guard lock(guard);
      words = idle.back();
      idle.pop_back();
    }
    size_t begin = b ? ends[b - 1] : 0;
    try {
      std::string repaired;
      count_lines(
          checked_utf8(text.substr(begin, ends[b] - begin), options_.invalid, origin, begin, repaired),
          *words);
    } catch (const Error& e) {  // must not leave a helper thread; the first block's error is the one reported
      errors[b] = e.what();
    }
    std::lock_guard lock(guard);
    idle.push_back(words);
  };
  const size_t wave = size_t(pool_.size()) * 4;  // progress is reported between waves
  for (size_t from = 0; from < ends.size(); from += wave) {
    size_t blocks = std::min(wave, ends.size() - from);
    pool_.run(int64_t(blocks), [&](int64_t b) { count_block(from + size_t(b)); });
    for (const std::string& error : errors)
      if (!error.empty()) throw Error(Exit::bad_input, error);
    if (options_.progress)
      options_.progress(
          {TrainProgress::Phase::counting, ends[from + blocks - 1], text.size(), counters_[0].unique()});
  }
}

void BpeTrainer::add_file(const std::string& path) {
  FileText file(path);
  add_text(file.text(), path);
}

void BpeTrainer::add_word(std::string_view word, int64_t count) {
  if (word.empty() || count < 1)
    throw Error(Exit::usage, cat("word count ", count, " of \"", word, "\": need one of each"));
  auto p = reinterpret_cast<const uint8_t*>(word.data());
  counters_[0].add(p, word.size(), p + word.size(), count);
}

void BpeTrainer::fold_counters() {
  // A tree of pairs: log2(threads) rounds, each in parallel. Sums commute, so the order leaves no trace.
  for (size_t step = 1; step < counters_.size(); step *= 2) {
    size_t pairs = (counters_.size() + 2 * step - 1) / (2 * step);
    pool_.run(int64_t(pairs), [&](int64_t p) {
      size_t to = size_t(p) * 2 * step, from = to + step;
      if (from >= counters_.size()) return;
      counters_[to].merge(counters_[from]);
      counters_[from] = WordCounter();
    });
  }
}

size_t BpeTrainer::unique_words() {
  fold_counters();
  return counters_[0].unique();
}

BpeModel BpeTrainer::finish() {
  fold_counters();
  const ByteAlphabet& alphabet = ByteAlphabet::get();
  BpeModel model;
  model.split_regex = options_.split_regex;
  std::vector<std::string> bytes;  // of each id
  for (const std::string& token : options_.special_tokens) {
    uint32_t id = uint32_t(model.tokens.size());
    if (token == options_.bos) model.bos = id;
    model.added.push_back({id, token, true, false});
    model.tokens.push_back(token);
    bytes.push_back(token);
  }
  std::array<uint32_t, 256> id_of_byte;
  for (uint8_t byte : alphabet.by_order) {
    id_of_byte[byte] = uint32_t(bytes.size());
    bytes.emplace_back(1, char(byte));
    model.tokens.push_back(alphabet.spell(bytes.back()));
  }
  const uint64_t words = counters_[0].unique(), total = uint64_t(options_.vocab_size);
  MergeLoop loop(counters_[0], id_of_byte, bytes);
  model.merges = loop.run(size_t(options_.vocab_size), options_.min_frequency, [&](size_t ids) {
    if (options_.progress) options_.progress({TrainProgress::Phase::merging, ids, total, words});
  });
  for (const Merge& m : model.merges)
    if (m.result == model.tokens.size()) model.tokens.push_back(model.tokens[m.left] + model.tokens[m.right]);
  model.in_vocabulary.assign(model.tokens.size(), true);
  if (options_.progress)
    options_.progress({TrainProgress::Phase::merging, model.tokens.size(), total, words});
  return model;
}

BpeModel train_bpe(const std::vector<std::string>& files, const BpeTrainOptions& options, ThreadPool& pool) {
  BpeTrainer trainer(options, pool);
  for (const std::string& file : files) trainer.add_file(file);
  return trainer.finish();
}

}  // namespace jambalaya
