// Trains a byte-level BPE vocabulary. The merges are those of Hugging Face tokenizers, ties included:
// highest count first, then smallest left id, then smallest right id.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/bpe_model.h"
#include "data/pretokenize.h"
#include "data/utf8.h"
#include "data/word_count.h"
#include "kernels/thread_pool.h"

namespace jambalaya {

struct TrainProgress {
  enum class Phase { counting, merging } phase;
  uint64_t done, total;   ///< bytes of the current file while counting, ids while merging
  uint64_t unique_words;  ///< so far (merging: all)
};

struct BpeTrainOptions {
  int64_t vocab_size =
      65536;  ///< ids in all: special tokens, 256 bytes, merges; at most 65,536 (u16 token stores)
  int64_t min_frequency = 0;  ///< pairs rarer than this are not merged
  std::vector<std::string> special_tokens{"<|pad|>", "<|startoftext|>", "<|endoftext|>",
                                          "<|unk|>"};  ///< ids 0, 1, ...
  std::string bos = "<|startoftext|>";                 ///< put first by the post-processor; empty: none
  std::string split_regex = Pretokenizer::default_regex();
  InvalidUtf8 invalid = InvalidUtf8::reject;
  std::function<void(const TrainProgress&)> progress;  ///< called now and then, on the caller's thread
};

/// Counts words, then merges. The result does not depend on the number of threads or the order of the texts.
class BpeTrainer {
 public:
  /// Error(usage) for impossible options.
  BpeTrainer(BpeTrainOptions options, ThreadPool& pool);

  /// Counts a plain text file, line by line with the line's '\n' (as Hugging Face's train does), so that no
  /// word crosses a line end. Error(bad_input) "FILE:OFFSET" for invalid UTF-8, Error(io) for what cannot be
  /// read.
  void add_file(const std::string& path);
  /// The same for text in memory; `origin` stands for the file's name in messages.
  void add_text(std::string_view text, const std::string& origin);
  /// Counts one word that is already split, `count` >= 1 times.
  void add_word(std::string_view word, int64_t count);

  size_t unique_words();
  /// The trained model: fewer ids than asked for when the text runs out of pairs. The trainer may go on
  /// counting.
  BpeModel finish();

 private:
  void count_lines(std::string_view block, WordCounter& words) const;
  void fold_counters();

  BpeTrainOptions options_;
  ThreadPool& pool_;
  Pretokenizer split_;
  std::vector<WordCounter>
      counters_;  ///< one per thread at work; the first holds the sum after fold_counters()
};

/// Trains on whole files.
BpeModel train_bpe(const std::vector<std::string>& files, const BpeTrainOptions& options, ThreadPool& pool);

}  // namespace jambalaya
