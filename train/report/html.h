// A page that stands alone: one file, no script, nothing loaded. All text goes through escape_markup.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace jambalaya {

/// A whole page; `body` is markup. It has the styles of charts and heat maps and forbids everything else.
std::string html_page(const std::string& title, const std::string& body);

/// Rows of text. Columns whose header begins with '#' hold numbers and stand to the right.
std::string html_table(const std::vector<std::string>& headers,
                       const std::vector<std::vector<std::string>>& rows);
/// A table of names and values without headers; rows without a value are left out.
std::string html_facts(const std::vector<std::pair<std::string, std::string>>& facts);

/// "12.3 s", "4 min 05 s", "1 h 02 min"
std::string duration_text(double seconds);
/// "2026-11-23 22:30 UTC"; "" for 0.
std::string time_text(double seconds_since_1970);
/// "12.5 %"
std::string percent_text(double share);
/// At most `bytes` of UTF-8, cut between characters, with "…" for what is missing.
std::string shortened(const std::string& text, size_t bytes);

}  // namespace jambalaya
