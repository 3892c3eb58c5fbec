// Strings as JSON, for the rooms that write JSON without a library (trace files, flight records).
#pragma once
#include <string>
#include <string_view>

namespace jambalaya {

/// `text` in double quotes, with what RFC 8259 wants escaped; bytes above 0x7f are kept.
std::string json_quoted(std::string_view text);

}  // namespace jambalaya
