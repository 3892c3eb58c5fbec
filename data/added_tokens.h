// Finds added tokens (special ones above all) in raw text, before it is split.
#pragma once
#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <vector>

#include "data/bpe_model.h"

namespace jambalaya {

/// Leftmost match, the longest among those that start there.
class AddedTokenFinder {
 public:
  void add(const AddedToken& token) {
    auto& list = by_first_byte_[uint8_t(token.content[0])];
    list.push_back(&token);
    std::sort(list.begin(), list.end(), [](auto a, auto b) { return a->content.size() > b->content.size(); });
    first_byte_ = uint8_t(token.content[0]);
    first_bytes_ += list.size() == 1;
  }

  /// The first match at or after `from`, or nullptr; `at` is its place (the text's end when there is none).
  const AddedToken* find(std::string_view text, size_t from, size_t& at) const {
    for (at = from; first_bytes_ && at < text.size(); at++) {
      if (first_bytes_ == 1) {  // the usual case: all begin with '<'
        const void* p = std::memchr(text.data() + at, first_byte_, text.size() - at);
        if (!p) break;
        at = size_t(static_cast<const char*>(p) - text.data());
      }
      for (const AddedToken* token : by_first_byte_[uint8_t(text[at])])
        if (text.substr(at).starts_with(token->content)) return token;
    }
    at = text.size();
    return nullptr;
  }

 private:
  std::array<std::vector<const AddedToken*>, 256> by_first_byte_;
  int first_bytes_ = 0;
  uint8_t first_byte_ = 0;
};

}  // namespace jambalaya
