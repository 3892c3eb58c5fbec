// Text to token ids and back. Byte-level BPE: every text can be encoded and decodes to itself. Tokenizers
// that were converted from SentencePiece are read too: what they decode to is what their own decoder says.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/bpe_model.h"
#include "kernels/thread_pool.h"

namespace jambalaya {

struct EncodeOptions {
  /// Special tokens spelled out in the text become their ids (as Hugging Face does). Off, they are ordinary
  /// text, so that a document cannot forge a document border.
  bool parse_special = false;
  bool add_bos = false;  ///< what the post-processor of the tokenizer.json puts first
};

/// Ids of several documents, one after the other.
template <class Id>
struct EncodedDocuments {
  std::vector<Id> ids;
  std::vector<uint64_t> doc_end;  ///< [documents] end of each in `ids` (exclusive); the next begins there
};

/// A value: copies share the (constant) tables. All functions may be called from several threads at once.
class Tokenizer {
 public:
  /// Reads a tokenizer.json, byte-level or SentencePiece-shaped. Error(io) or Error(bad_input) with the
  /// file's name.
  static Tokenizer load(const std::string& path);
  /// `origin` stands for the file's name in messages.
  static Tokenizer from_json(std::string text, const std::string& origin);
  /// A byte-level model.
  static Tokenizer from_model(const BpeModel& model);

  /// Writes json() under a temporary name, then renames. Error(io).
  void save(const std::string& path) const;

  /// Ids of one document of valid UTF-8 (Error(bad_input) otherwise), below 4 GiB. Ids as Hugging Face gives
  /// them.
  std::vector<uint32_t> encode(std::string_view text, EncodeOptions options = {}) const;
  /// The same, appended to `out`. uint16_t needs vocab_size() <= 65,536.
  template <class Id>
  void encode_into(std::string_view text, EncodeOptions options, std::vector<Id>& out) const;
  /// Many documents on all threads of the pool; large ones are cut where a piece must end. The output does
  /// not depend on the number of threads. Error names the document by its number.
  template <class Id>
  EncodedDocuments<Id> encode_documents(std::span<const std::string_view> documents, EncodeOptions options,
                                        ThreadPool& pool) const;

  /// Text of the ids. Bytes that are not UTF-8 (a character cut in two) become U+FFFD, as Hugging Face
  /// decodes. Error(bad_input) for an id outside the vocabulary.
  std::string decode(std::span<const uint32_t> ids, bool skip_special = false) const;
  /// What `ids` add to the text of `prompt`, without special tokens. Not always decode(ids): a SentencePiece
  /// decoder takes the first blank of a text away, and here the text begins with the prompt.
  std::string decode_after(std::span<const uint32_t> prompt, std::span<const uint32_t> ids) const;
  /// The bytes of one id: concatenated over ids they are the encoded text, exactly (byte-level), or that text
  /// with the blank that the normalizer puts first (SentencePiece-shaped).
  const std::string& id_to_bytes(uint32_t id) const;

  int64_t vocab_size() const;
  /// Id of a token by its exact text, or -1.
  int64_t id_of(std::string_view token) const;
  bool is_special(uint32_t id) const;
  /// Ids of <|pad|> (else <pad>), of what the post-processor puts first (else <|startoftext|>, <s>), of
  /// <|endoftext|> (else <|end_of_text|>, </s>) and of the model's unk_token (else <|unk|>); -1 where the
  /// tokenizer has none. 0, 1, 2, 3 in tokenizers trained here and in those of the released Jamba models.
  int64_t pad() const;
  int64_t bos() const;
  int64_t eos() const;
  int64_t unk() const;

  /// False when the split pattern is not one of the known ones and PCRE2 reads it with older Unicode tables:
  /// warn.
  bool exact_split() const;
  const BpeModel& model() const;
  /// The whole tokenizer.json, to be embedded in token stores.
  const std::string& json() const;
  /// XXH3 (128 bits, 32 hexadecimal digits) of json().
  const std::string& fingerprint() const;

 private:
  struct State;
  explicit Tokenizer(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

}  // namespace jambalaya
