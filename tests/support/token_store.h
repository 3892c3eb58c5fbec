// Token stores for tests: a tokenizer of bytes (id = byte + 4) and made-up documents.
#pragma once
#include <random>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "tests/support/temporary_folder.h"

namespace jambalaya::test {

inline const TokenizerRecord& byte_tokenizer() {
  static const TokenizerRecord record{.json = "{\"bytes\": true}",
                                      .fingerprint = "0123456789abcdef",
                                      .vocab_size = 260,
                                      .bos = 1,
                                      .eos = 2,
                                      .pad = 0};
  return record;
}

inline void encode_bytes(std::string_view text, std::vector<int32_t>& ids) {
  for (char c : text) ids.push_back(int32_t(uint8_t(c)) + 4);
}

/// `count` texts of 1 to `longest` letters.
inline std::vector<std::string> random_texts(int count, unsigned longest, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::string> texts;
  for (int i = 0; i < count; i++) {
    std::string text(1 + random() % longest, ' ');
    for (char& c : text) c = char('a' + random() % 26);
    texts.push_back(text);
  }
  return texts;
}

inline std::string write_json_lines(const TemporaryFolder& folder, const std::string& name,
                                    const std::vector<std::string>& texts) {
  std::string lines;
  for (const std::string& text : texts) lines.append("{\"text\": \"").append(text).append("\"}\n");
  return folder.write(name, lines);
}

}  // namespace jambalaya::test
