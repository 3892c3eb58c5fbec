// What lies between two documents of one text file: blank lines, or the matches of a regular expression.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace jambalaya {

class Separator {
 public:
  /// "blank-lines" or a regular expression. Throws Error(usage) with the place of the fault in the
  /// expression.
  explicit Separator(const std::string& rule);
  ~Separator();

  struct Match {
    bool found = false;
    size_t begin = 0,
           end = 0;  ///< of the separator; when none was found, `begin` is where to go on searching
  };
  /// First non-empty separator at or after `from` in valid UTF-8. Unless `at_end`, more text may follow: then
  /// a separator that could still grow is not reported yet.
  Match find(std::string_view text, size_t from, bool at_end);

 private:
  struct Pattern;
  std::string rule_;
  std::unique_ptr<Pattern> pattern_;
};

}  // namespace jambalaya
