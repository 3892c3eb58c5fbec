#include "data/text_reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>
#include <vector>

#include "data/byte_source.h"
#include "data/separator.h"
#include "data/utf8.h"
#include "kernels/error.h"

namespace jambalaya {

namespace {

constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";

/// Bytes at the end of `text` that may be the beginning of a character.
size_t begun_character(std::string_view text) {
  for (size_t n = 1; n <= 3 && n <= text.size(); n++) {
    const uint8_t byte = uint8_t(text[text.size() - n]);
    if (byte >= 0xC0) return (byte < 0xE0 ? 2u : byte < 0xF0 ? 3u : 4u) > n ? n : 0;
    if (byte < 0x80) return 0;
  }
  return 0;
}

/// Valid UTF-8 out of bytes: never ends inside a character.
class Utf8Stream {
 public:
  Utf8Stream(const std::string& path, InvalidUtf8 policy)
      : path_(path), policy_(policy), source_(open_byte_source(path)), block_(1 << 18) {}

  /// Appends more text; false at the end of the file.
  bool append_to(std::string& text) {
    if (ended_) return false;
    const size_t n = source_->read(block_.data(), block_.size());
    ended_ = n == 0;
    rest_.append(block_.data(), n);
    bytes_ += int64_t(n);
    // A byte-order mark may come in pieces: wait until it can be told from text.
    if (!begun_ && rest_.size() < byte_order_mark.size() && !ended_) return true;
    if (!begun_ && rest_.starts_with(byte_order_mark)) drop(byte_order_mark.size());
    begun_ = true;
    const std::string_view whole =
        std::string_view(rest_).substr(0, rest_.size() - (ended_ ? 0 : begun_character(rest_)));
    const size_t bad = find_invalid_utf8(whole);
    if (bad != std::string_view::npos && policy_ == InvalidUtf8::reject) fail(bad);
    text += bad == std::string_view::npos ? whole : std::string_view(replace_invalid_utf8(whole));
    drop(whole.size());
    return !ended_;
  }
  int64_t bytes() const { return bytes_; }

 private:
  void drop(size_t n) {
    lines_ += std::count(rest_.begin(), rest_.begin() + ptrdiff_t(n), '\n');
    consumed_ += int64_t(n);
    rest_.erase(0, n);
  }

  [[noreturn]] void fail(size_t at) {
    static constexpr char digits[] = "0123456789abcdef";
    const uint8_t byte = uint8_t(rest_[at]);
    const int64_t line = lines_ + 1 + std::count(rest_.begin(), rest_.begin() + ptrdiff_t(at), '\n');
    throw Error(Exit::bad_input, cat(path_, ":", line, ": byte ", consumed_ + int64_t(at), " (0x",
                                     digits[byte >> 4], digits[byte & 15],
                                     ") is not valid UTF-8; convert the file, or ask for invalid bytes "
                                     "to be replaced"));
  }

  std::string path_;
  InvalidUtf8 policy_;
  std::unique_ptr<ByteSource> source_;
  std::vector<char> block_;
  std::string rest_;  // bytes not yet known to be whole characters
  int64_t bytes_ = 0, consumed_ = 0, lines_ = 0;
  bool ended_ = false, begun_ = false;
};

bool is_json_lines(std::string_view path) {
  for (std::string_view packed : {".gz", ".zst"})
    if (path.ends_with(packed)) path.remove_suffix(packed.size());
  return path.ends_with(".jsonl") || path.ends_with(".ndjson");
}

}  // namespace

struct TextReader::State {
  State(const std::string& file, const TextOptions& chosen)
      : path(file), options(chosen), stream(file, chosen.invalid_utf8), json_lines(is_json_lines(file)) {
    if (!json_lines && !options.split_on.empty()) separator = std::make_unique<Separator>(options.split_on);
  }

  bool next_piece(std::string& text);
  bool next_separated(std::string& text);
  bool next_json_line(std::string& text);
  void discard(size_t bytes);

  std::string path;
  TextOptions options;
  Utf8Stream stream;
  bool json_lines;
  std::unique_ptr<Separator> separator;
  std::string buffer;   // from some bytes before `begin`: a regular expression may look behind
  size_t begin = 0;     // of the next document in buffer
  size_t searched = 0;  // no separator begins before here
  bool ended = false;
  int64_t line = 0;
};

/// Forgets text before `begin` once there is much of it, so that a long file costs no quadratic copying.
void TextReader::State::discard(size_t bytes) {
  begin = bytes;
  searched = std::max(searched, begin);
  constexpr size_t look_behind = 4096;
  if (begin < (1 << 20) + look_behind) return;
  size_t cut = begin - look_behind;
  while (cut > 0 && (uint8_t(buffer[cut]) & 0xC0) == 0x80) cut--;  // at a character's start
  buffer.erase(0, cut);
  begin -= cut;
  searched -= cut;
}

bool TextReader::State::next_separated(std::string& text) {
  while (begin < buffer.size() || !ended) {
    const Separator::Match match = separator->find(buffer, searched, ended);
    if (match.found) {
      text.assign(buffer, begin, match.begin - begin);
      searched = match.end;
      discard(match.end);
      return true;
    }
    searched = std::max(begin, match.begin);
    if (ended) {
      text.assign(buffer, begin);
      discard(buffer.size());
      return true;
    }
    ended = !stream.append_to(buffer);
  }
  return false;
}

bool TextReader::State::next_json_line(std::string& text) {
  size_t end;
  while ((end = buffer.find('\n', searched)) == std::string::npos && !ended) {
    searched = buffer.size();
    ended = !stream.append_to(buffer);
  }
  if (end == std::string::npos) {
    if (begin == buffer.size()) return false;
    end = buffer.size();
  }
  std::string_view content = std::string_view(buffer).substr(begin, end - begin);
  line++;
  text.clear();
  if (content.find_first_not_of(" \t\r") != std::string_view::npos) {
    nlohmann::json object;
    try {
      object = nlohmann::json::parse(content);
    } catch (const nlohmann::json::exception& error) {
      throw Error(Exit::bad_input, cat(path, ":", line, ": not a JSON object: ", error.what()));
    }
    if (!object.is_object())
      throw Error(Exit::bad_input, cat(path, ":", line, ": a JSON ", object.type_name(), ", not an object"));
    auto field = object.find(options.field);
    if (field == object.end() || !field->is_string())
      throw Error(Exit::bad_input,
                  cat(path, ":", line, ": ", field == object.end() ? "no field" : "no string in field", " '",
                      options.field, "'; the text of a document is read from that field"));
    text = std::move(field->get_ref<std::string&>());
  }
  searched = std::min(end + 1, buffer.size());
  discard(searched);
  return true;
}

bool TextReader::State::next_piece(std::string& text) {
  if (json_lines) return next_json_line(text);
  if (separator) return next_separated(text);
  if (ended) return false;
  text.clear();
  while (stream.append_to(text)) {
  }
  ended = true;
  return true;
}

TextReader::TextReader(const std::string& path, const TextOptions& options)
    : state_(std::make_unique<State>(path, options)) {}
TextReader::~TextReader() = default;
TextReader::TextReader(TextReader&&) noexcept = default;
TextReader& TextReader::operator=(TextReader&&) noexcept = default;

bool TextReader::next(std::string& text) {
  while (state_->next_piece(text))
    if (text.find_first_not_of(" \t\r\n") != std::string::npos) return true;
  return false;
}

int64_t TextReader::bytes_read() const { return state_->stream.bytes(); }

}  // namespace jambalaya
