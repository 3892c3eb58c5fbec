// Documents of text files, streamed: .jsonl (one JSON object per line) and plain text (everything else), each
// also packed with gzip or Zstandard.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "data/utf8.h"

namespace jambalaya {

struct TextOptions {
  std::string field = "text";  ///< of a .jsonl line's object
  /// How a plain text file falls into documents: "" one file is one document; "blank-lines"; anything else is
  /// a regular expression (PCRE2, UTF, multi-line: ^ and $ match at lines) whose non-empty matches separate
  /// documents and belong to none. A .jsonl file ignores it.
  std::string split_on;
  InvalidUtf8 invalid_utf8 = InvalidUtf8::reject;
};

/// Reads one file. A byte-order mark at its start is dropped; documents without any text are passed over.
/// Line and byte numbers in messages are those of the unpacked text.
class TextReader {
 public:
  /// Throws Error(bad_input) when the file cannot be opened, Error(usage) when split_on is no regular
  /// expression.
  TextReader(const std::string& path, const TextOptions& options);
  ~TextReader();
  TextReader(TextReader&&) noexcept;
  TextReader& operator=(TextReader&&) noexcept;

  /// Replaces `text` by the next document; false at the end of the file.
  bool next(std::string& text);
  /// Unpacked bytes taken from the file so far.
  int64_t bytes_read() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace jambalaya
