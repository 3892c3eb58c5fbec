// Looking at markup: is it well-formed, how often is something in it.
#pragma once
#include <algorithm>
#include <regex>
#include <string>
#include <vector>

namespace jambalaya::test {

/// What is wrong with `text` as XML: tags that do not match, bare & or < , attributes without quotes.
inline std::string xml_problem(const std::string& text) {
  static const std::regex tag(R"re(<(/?)([a-z]+)((?: [A-Za-z0-9:-]+="[^"<&]*")*)(/?)>)re");
  static const std::regex content(R"re([^<>&]*(?:&(?:lt|gt|amp|quot|#39);[^<>&]*)*)re");
  std::vector<std::string> open;
  auto at = text.begin();
  while (at != text.end()) {
    const auto next = std::find(at, text.end(), '<');
    if (!std::regex_match(at, next, content)) return "bad text: " + std::string(at, next);
    if (next == text.end()) break;
    const auto end = std::find(next, text.end(), '>');
    if (end == text.end()) return "open tag at the end";
    std::smatch m;
    const std::string found(next, end + 1);
    if (!std::regex_match(found, m, tag)) return "bad tag: " + found;
    if (m[1].length()) {
      if (open.empty() || open.back() != m[2].str()) return "unmatched " + found;
      open.pop_back();
      if (open.empty() && std::string(end + 1, text.end()) != "\n") return "text after the root";
    } else if (!m[4].length()) {
      open.push_back(m[2]);
    }
    at = end + 1;
  }
  return open.empty() ? "" : "never closed: " + open.back();
}

inline size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) n++;
  return n;
}

}  // namespace jambalaya::test
