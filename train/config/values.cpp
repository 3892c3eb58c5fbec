#include "train/config/values.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/error.h"

namespace jambalaya {

namespace {

/// 010 is eight in YAML 1.1 and ten to most readers.
bool leading_zero(const std::string& text) {
  const size_t first = text.find_first_not_of("+-");
  return first != std::string::npos && first + 1 < text.size() && text[first] == '0' &&
         std::isdigit(text[first + 1]) != 0;
}

template <class T>
bool whole(const std::string& text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

double factor_of(const std::string& suffix) {
  static const std::pair<const char*, double> factors[] = {{"k", 1e3},     {"M", 1e6},     {"G", 1e9},
                                                           {"Ki", 0x1p10}, {"Mi", 0x1p20}, {"Gi", 0x1p30}};
  for (const auto& [name, factor] : factors)
    if (suffix == name) return factor;
  return 0;
}

}  // namespace

std::string read_integer(const std::string& text, int64_t& value) {
  if (leading_zero(text))
    return "a leading zero is octal to some and decimal to others; write the number without it";
  if (whole(text, value)) return "";
  const size_t split = text.find_last_of("0123456789.") + 1;
  const std::string number = text.substr(0, split), suffix = text.substr(split);
  double mantissa = 0;
  if (!number.empty() && text.find_first_not_of("-0123456789") == std::string::npos)
    return "does not fit into 64 bits";
  if (number.empty() || !whole(number, mantissa)) return "not a whole number";
  if (suffix == "K")
    return cat("'K' can be 1000 or 1024; write ", number, "k (1000) or ", number, "Ki (1024)");
  if (suffix.empty()) return "not a whole number";
  const double factor = factor_of(suffix);
  if (factor == 0)
    return "not a whole number (suffixes: k, M, G for powers of 1000; Ki, Mi, Gi for powers of 1024)";
  const double product = mantissa * factor;
  if (std::abs(product) > 0x1p53) return "too large for a number with a suffix";
  if (product != std::floor(product)) return "not a whole number";
  value = int64_t(product);
  return "";
}

std::string read_unsigned(const std::string& text, uint64_t& value) {
  if (!leading_zero(text) && whole(text, value)) return "";
  int64_t integer = 0;
  const std::string why = read_integer(text, integer);
  if (!why.empty()) return why;
  if (integer < 0) return "must not be negative";
  value = uint64_t(integer);
  return "";
}

std::string read_real(const std::string& text, double& value) {
  if (leading_zero(text))
    return "a leading zero is octal to some and decimal to others; write the number without it";
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range) return "out of the range of numbers";
  if (error != std::errc() || end != text.data() + text.size()) return "not a number";
  return std::isfinite(value) ? "" : "must be a finite number";
}

std::string read_boolean(const std::string& text, bool& value) {
  if (text != "true" && text != "false") return "must be true or false";
  value = text == "true";
  return "";
}

namespace {

/// Lower case, and the name that is meant where people use another.
std::string usual_name(std::string word) {
  for (char& c : word) c = char(std::tolower(static_cast<unsigned char>(c)));
  return word == "gpu" || word == "nvidia" ? "cuda" : word;
}

}  // namespace

std::string nearest_word(const std::string& word, const std::vector<std::string>& known) {
  for (const std::string& candidate : known)
    if (candidate == usual_name(word)) return candidate;
  std::string best;
  size_t fewest = std::numeric_limits<size_t>::max();
  for (const auto& candidate : known) {
    // Edits with swaps of neighbours (optimal string alignment), one row at a time.
    std::vector<size_t> row(candidate.size() + 1), above, two_above;
    std::iota(row.begin(), row.end(), size_t(0));
    for (size_t i = 1; i <= word.size(); i++) {
      two_above = std::exchange(above, row);
      row[0] = i;
      for (size_t j = 1; j <= candidate.size(); j++) {
        row[j] = std::min(
            {above[j - 1] + (word[i - 1] == candidate[j - 1] ? 0 : 1), above[j] + 1, row[j - 1] + 1});
        if (i > 1 && j > 1 && word[i - 1] == candidate[j - 2] && word[i - 2] == candidate[j - 1])
          row[j] = std::min(row[j], two_above[j - 2] + 1);
      }
    }
    if (row.back() < fewest) {
      fewest = row.back();
      best = candidate;
    }
  }
  return fewest <= std::max<size_t>(1, std::max(word.size(), best.size()) / 3) ? best : "";
}

std::string either(const std::vector<std::string>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); i++) {
    if (i > 0) text += i + 1 == words.size() ? " or " : ", ";
    text += words[i];
  }
  return text;
}

}  // namespace jambalaya
