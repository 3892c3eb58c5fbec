#include "data/tokenizer.h"

#include <fcntl.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "data/added_tokens.h"
#include "data/bpe_encode.h"
#include "data/pretokenize.h"
#include "data/tokenizer_decoder.h"
#include "data/tokenizer_json.h"
#include "data/tokenizer_metaspace.h"
#include "data/tokenizer_normalizer.h"
#include "data/utf8.h"
#include "kernels/error.h"

namespace jambalaya {
namespace {

constexpr size_t kUnit = 1 << 20;  // bytes that one thread encodes at a time

std::string hex128(std::string_view text) {
  XXH128_hash_t h = XXH3_128bits(text.data(), text.size());
  std::string out;
  for (uint64_t half : {uint64_t(h.high64), uint64_t(h.low64)})
    for (int shift = 60; shift >= 0; shift -= 4) out += "0123456789abcdef"[half >> shift & 15];
  return out;
}

/// A stretch of one document.
struct Part {
  size_t document, begin, end;
};

/// First place at or after `from` where every known split pattern ends a piece whatever lies around: behind a
/// '\n' between two characters that are ASCII and not blank. The text's end when there is none.
size_t safe_cut(std::string_view text, size_t from) {
  auto solid = [](char c) { return uint8_t(c) > ' ' && uint8_t(c) < 0x7F; };
  for (size_t i = from; (i = text.find('\n', i)) != std::string_view::npos && i + 1 < text.size(); i++)
    if (i > 0 && solid(text[i - 1]) && solid(text[i + 1])) return i + 1;
  return text.size();
}

}  // namespace

struct Tokenizer::State {
  BpeModel model;
  MergeTable merges;
  TokenDecoder decoder;
  std::optional<Pretokenizer> split;        ///< of a byte-level model
  std::optional<MetaspaceSplit> metaspace;  ///< of a SentencePiece-shaped one
  std::string json, fingerprint;
  std::vector<bool> special;
  std::unordered_map<std::string_view, uint32_t> ids;  ///< of each token's text
  /// [parse_special][normalized]: tokens that are not normalized are looked for first.
  AddedTokenFinder finders[2][2];
  bool can_cut = true;
  int64_t pad, bos, eos, unk;

  State(BpeModel m, std::string text)
      : model(std::move(m)),
        merges(model),
        decoder(model),
        json(std::move(text)),
        fingerprint(hex128(json)),
        special(model.tokens.size()) {
    if (model.sentence_piece)
      metaspace.emplace(model, *merges.characters());
    else
      split.emplace(model.split_regex);
    can_cut = split && split->exact();
    for (uint32_t id = 0; id < model.tokens.size(); id++) ids.emplace(model.tokens[id], id);
    for (bool wanted : {true, false})  // special ones first: they win where two spell the same
      for (const AddedToken& token : model.added)
        if (token.special == wanted) add(token);
    name_ids();
  }

  void add(const AddedToken& token) {
    special[token.id] = token.special;
    std::string pattern = token.content;
    if (token.normalized && model.sentence_piece)
      pattern = normalize(pattern, model.sentence_piece->normalizer);
    finders[1][token.normalized].add(token, pattern);
    if (!token.special) finders[0][token.normalized].add(token, pattern);
    if (token.lstrip || token.rstrip || token.content.find('\n') != std::string::npos) can_cut = false;
  }

  void name_ids() {
    auto first_of = [&](std::initializer_list<const char*> names) {
      for (const char* name : names)
        if (auto found = ids.find(name); found != ids.end()) return int64_t(found->second);
      return int64_t(-1);
    };
    pad = first_of({"<|pad|>", "<pad>"});
    bos = model.bos >= 0 ? model.bos : first_of({"<|startoftext|>", "<s>"});
    eos = first_of({"<|endoftext|>", "<|end_of_text|>", "</s>"});
    unk = model.sentence_piece && model.sentence_piece->unk >= 0 ? model.sentence_piece->unk
                                                                 : first_of({"<|unk|>"});
  }

  /// Encoders with warm caches wait here between calls.
  template <class Id>
  struct Idle {
    std::mutex guard;
    std::vector<std::unique_ptr<PieceEncoder<Id>>> encoders;
  };
  mutable Idle<uint16_t> idle16;
  mutable Idle<uint32_t> idle32;

  template <class Id>
  std::unique_ptr<PieceEncoder<Id>> borrow(Idle<Id>& idle) const {
    std::lock_guard lock(idle.guard);
    if (idle.encoders.empty()) return std::make_unique<PieceEncoder<Id>>(merges);
    auto encoder = std::move(idle.encoders.back());
    idle.encoders.pop_back();
    return encoder;
  }
  template <class Id>
  Idle<Id>& idle() const {
    if constexpr (sizeof(Id) == 2)
      return idle16;
    else
      return idle32;
  }

  /// Text between added tokens. `splitter` is the pre-tokenizer of the model's kind.
  template <class Splitter, class Id>
  static void encode_plain(const Splitter& splitter, std::string_view text, const uint8_t* readable_end,
                           PieceEncoder<Id>& encoder, std::vector<Id>& out) {
    uint32_t lengths[512];
    for (size_t at = 0; at < text.size();) {
      size_t count = splitter.split(text, at, lengths);
      encoder.encode(reinterpret_cast<const uint8_t*>(text.data()) + at, {lengths, count}, readable_end, out);
      for (size_t i = 0; i < count; i++) at += lengths[i];
    }
  }

  static const uint8_t* end_of(std::string_view text) {
    return reinterpret_cast<const uint8_t*>(text.data() + text.size());
  }

  /// Cuts out the added tokens that are normalized; what lies between is split. `text` is normalized.
  template <class Id>
  void encode_normalized(std::string_view text, bool document_start, bool parse_special,
                         const uint8_t* readable_end, PieceEncoder<Id>& encoder, std::vector<Id>& out) const {
    finders[parse_special][1].cut(text, [&](const AddedToken* token, size_t begin, size_t end) {
      if (token) return out.push_back(Id(token->id));
      std::string_view part = text.substr(begin, end - begin);
      if (split) return encode_plain(*split, part, readable_end, encoder, out);
      const std::string prepared = metaspace->prepare(part, document_start && begin == 0);
      encode_plain(*metaspace, prepared, end_of(prepared), encoder, out);
    });
  }

  /// Cuts out the added tokens that are not normalized; what lies between is normalized.
  template <class Id>
  void encode_text(std::string_view text, bool parse_special, const uint8_t* readable_end,
                   PieceEncoder<Id>& encoder, std::vector<Id>& out) const {
    finders[parse_special][0].cut(text, [&](const AddedToken* token, size_t begin, size_t end) {
      if (token) return out.push_back(Id(token->id));
      std::string_view part = text.substr(begin, end - begin);
      if (!model.sentence_piece)
        return encode_normalized(part, begin == 0, parse_special, readable_end, encoder, out);
      const std::string normalized = normalize(part, model.sentence_piece->normalizer);
      if (normalized.size() > UINT32_MAX / 8)  // Metaspace may make more of it
        throw Error(Exit::bad_input, cat("a document of ", normalized.size(),
                                         " bytes once normalized; up to 512 MiB are encoded: cut it"));
      encode_normalized<Id>(normalized, begin == 0, parse_special, end_of(normalized), encoder, out);
    });
  }

  /// One stretch of a document; `where` names the document in errors.
  template <class Id>
  void encode_part(std::string_view text, size_t base, const std::string& where, EncodeOptions options,
                   PieceEncoder<Id>& encoder, std::vector<Id>& out) const {
    std::string unused;
    checked_utf8(text, InvalidUtf8::reject, where, base, unused);
    if (options.add_bos && base == 0 && model.bos >= 0) out.push_back(Id(model.bos));
    encode_text(text, options.parse_special, end_of(text), encoder, out);
  }

  void check_size(std::string_view text, const std::string& where) const {
    if (text.size() > UINT32_MAX)
      throw Error(Exit::bad_input,
                  cat(where, ": ", text.size(), " bytes; one document may have up to 4 GiB: cut it"));
  }
};

Tokenizer Tokenizer::from_json(std::string text, const std::string& origin) {
  BpeModel model = parse_tokenizer_json(text, origin);
  return Tokenizer(std::make_shared<const State>(std::move(model), std::move(text)));
}

Tokenizer Tokenizer::from_model(const BpeModel& model) {
  return Tokenizer(std::make_shared<const State>(model, write_tokenizer_json(model)));
}

Tokenizer Tokenizer::load(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(Exit::io, cat(path, ": ", std::strerror(errno)));
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (file.bad()) throw Error(Exit::io, path + ": cannot be read");
  return from_json(std::move(text), path);
}

void Tokenizer::save(const std::string& path) const {
  std::string temporary = cat(path, ".tmp.", ::getpid());
  auto fail = [&] {
    int error = errno;
    ::unlink(temporary.c_str());
    throw Error(Exit::io, cat(path, ": ", std::strerror(error)));
  };
  int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) fail();
  const std::string& text = state_->json;
  for (size_t at = 0; at < text.size();) {
    ssize_t wrote = ::write(fd, text.data() + at, text.size() - at);
    if (wrote < 0 && errno != EINTR) {
      ::close(fd);
      fail();
    }
    at += size_t(std::max<ssize_t>(wrote, 0));
  }
  bool stored = ::fsync(fd) == 0;
  if (::close(fd) != 0 || !stored || ::rename(temporary.c_str(), path.c_str()) != 0) fail();
}

template <class Id>
void Tokenizer::encode_into(std::string_view text, EncodeOptions options, std::vector<Id>& out) const {
  JAMBALAYA_CHECK(vocab_size() <= int64_t(std::numeric_limits<Id>::max()) + 1, vocab_size(), " ids");
  state_->check_size(text, "text");
  auto& idle = state_->idle<Id>();
  auto encoder = state_->borrow(idle);
  state_->encode_part(text, 0, "text", options, *encoder, out);
  std::lock_guard lock(idle.guard);
  idle.encoders.push_back(std::move(encoder));
}

std::vector<uint32_t> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  std::vector<uint32_t> ids;
  encode_into(text, options, ids);
  return ids;
}

template <class Id>
EncodedDocuments<Id> Tokenizer::encode_documents(std::span<const std::string_view> documents,
                                                 EncodeOptions options, ThreadPool& pool) const {
  JAMBALAYA_CHECK(vocab_size() <= int64_t(std::numeric_limits<Id>::max()) + 1, vocab_size(), " ids");
  const State& state = *state_;
  std::vector<Part> parts;
  std::vector<size_t> unit_begin{0};  // in parts
  size_t in_unit = 0;
  for (size_t d = 0; d < documents.size(); d++) {
    std::string_view text = documents[d];
    state.check_size(text, cat("document ", d));
    for (size_t begin = 0, end; begin == 0 || begin < text.size(); begin = end) {
      end = state.can_cut && text.size() - begin > 2 * kUnit ? safe_cut(text, begin + kUnit) : text.size();
      parts.push_back({d, begin, end});
      if ((in_unit += end - begin) >= kUnit) unit_begin.push_back(parts.size()), in_unit = 0;
      if (end == text.size()) break;
    }
  }
  if (unit_begin.back() != parts.size()) unit_begin.push_back(parts.size());

  size_t units = unit_begin.size() - 1;
  std::vector<std::vector<Id>> ids(units);
  std::vector<std::string> errors(units);
  std::vector<size_t> part_end(parts.size());  // within the unit
  auto& idle = state.idle<Id>();
  pool.run(int64_t(units), [&](int64_t u) {
    auto encoder = state.borrow(idle);
    auto& out = ids[size_t(u)];
    try {
      for (size_t p = unit_begin[size_t(u)]; p < unit_begin[size_t(u) + 1]; p++) {
        const Part& part = parts[p];
        std::string_view text = documents[part.document].substr(part.begin, part.end - part.begin);
        state.encode_part(text, part.begin, cat("document ", part.document), options, *encoder, out);
        part_end[p] = out.size();
      }
    } catch (const Error& e) {  // must not leave a helper thread; the first unit's error is the one reported
      errors[size_t(u)] = e.what();
    }
    std::lock_guard lock(idle.guard);
    idle.encoders.push_back(std::move(encoder));
  });
  for (const std::string& error : errors)
    if (!error.empty()) throw Error(Exit::bad_input, error);

  EncodedDocuments<Id> result;
  result.doc_end.resize(documents.size());
  for (size_t u = 0, offset = 0; u < units; offset += ids[u].size(), u++)
    for (size_t p = unit_begin[u]; p < unit_begin[u + 1]; p++)
      result.doc_end[parts[p].document] = offset + part_end[p];
  result.ids.reserve(documents.empty() ? 0 : result.doc_end.back());
  for (auto& out : ids) {
    result.ids.insert(result.ids.end(), out.begin(), out.end());
    std::vector<Id>().swap(out);
  }
  return result;
}

std::string Tokenizer::decode(std::span<const uint32_t> ids, bool skip_special) const {
  for (uint32_t id : ids) id_to_bytes(id);  // refuses ids outside the vocabulary
  return state_->decoder.decode(ids, skip_special);
}

std::string Tokenizer::decode_after(std::span<const uint32_t> prompt, std::span<const uint32_t> ids) const {
  if (!state_->model.sentence_piece) return decode(ids, true);
  std::vector<uint32_t> all(prompt.begin(), prompt.end());
  all.insert(all.end(), ids.begin(), ids.end());
  const std::string before = decode(prompt, true), text = decode(all, true);
  return text.starts_with(before) ? text.substr(before.size()) : decode(ids, true);
}

const std::string& Tokenizer::id_to_bytes(uint32_t id) const {
  const std::vector<std::string>& bytes = state_->decoder.bytes();
  if (id >= bytes.size())
    throw Error(Exit::bad_input, cat("token id ", id, " is outside the tokenizer's ", bytes.size(), " ids"));
  return bytes[id];
}

int64_t Tokenizer::vocab_size() const { return int64_t(state_->model.tokens.size()); }
int64_t Tokenizer::id_of(std::string_view token) const {
  auto found = state_->ids.find(token);
  return found == state_->ids.end() ? -1 : int64_t(found->second);
}
bool Tokenizer::is_special(uint32_t id) const { return id < state_->special.size() && state_->special[id]; }
int64_t Tokenizer::pad() const { return state_->pad; }
int64_t Tokenizer::bos() const { return state_->bos; }
int64_t Tokenizer::eos() const { return state_->eos; }
int64_t Tokenizer::unk() const { return state_->unk; }
bool Tokenizer::exact_split() const { return !state_->split || state_->split->exact(); }
const BpeModel& Tokenizer::model() const { return state_->model; }
const std::string& Tokenizer::json() const { return state_->json; }
const std::string& Tokenizer::fingerprint() const { return state_->fingerprint; }

template void Tokenizer::encode_into(std::string_view, EncodeOptions, std::vector<uint16_t>&) const;
template void Tokenizer::encode_into(std::string_view, EncodeOptions, std::vector<uint32_t>&) const;
template EncodedDocuments<uint16_t> Tokenizer::encode_documents(std::span<const std::string_view>,
                                                                EncodeOptions, ThreadPool&) const;
template EncodedDocuments<uint32_t> Tokenizer::encode_documents(std::span<const std::string_view>,
                                                                EncodeOptions, ThreadPool&) const;

}  // namespace jambalaya
