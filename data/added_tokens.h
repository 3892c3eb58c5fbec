// Finds added tokens (special ones above all) in text, before it is split.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/bpe_model.h"

namespace jambalaya {

/// Leftmost match, the longest among those that start there; of equal ones the first that was added.
class AddedTokenFinder {
 public:
  /// `pattern` is what the text spells: the token's content, normalized if the text is. `token` must outlive
  /// the finder.
  void add(const AddedToken& token, std::string pattern);

  /// Calls part(token, begin, end) from left to right: tokens with the blanks that they take, and with
  /// token = nullptr the text between them.
  template <class F>
  void cut(std::string_view text, F&& part) const {
    size_t done = 0, at = 0;
    for (size_t from = 0; const Entry* found = find(text, from, at);) {
      // The search goes on behind the match alone: a blank that it takes may begin the next match.
      from = at + found->pattern.size();
      size_t begin = at, end = from;
      if (found->token->lstrip) begin = std::max(done, begin - blanks_at_end(text.substr(0, at)));
      if (found->token->rstrip) end += blanks_at_start(text.substr(end));
      if (done < begin) part(static_cast<const AddedToken*>(nullptr), done, begin);
      part(found->token, begin, end);
      done = end;
    }
    if (done < text.size()) part(static_cast<const AddedToken*>(nullptr), done, text.size());
  }

 private:
  struct Entry {
    std::string pattern;
    const AddedToken* token;
  };
  /// The first match at or after `from`, or nullptr; `at` is its place.
  const Entry* find(std::string_view text, size_t from, size_t& at) const;
  static size_t blanks_at_end(std::string_view text);
  static size_t blanks_at_start(std::string_view text);

  std::array<std::vector<Entry>, 256> by_first_byte_;
  int first_bytes_ = 0;
  uint8_t first_byte_ = 0;
};

}  // namespace jambalaya
