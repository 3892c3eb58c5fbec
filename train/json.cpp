#include "train/json.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "train/files.h"

namespace jambalaya {
namespace {

/// Hands nlohmann's events on, with a depth limit. Its parser keeps an explicit stack, so depth costs no C++
/// stack.
class Adapter final : public nlohmann::json_sax<nlohmann::json> {
 public:
  Adapter(const std::string& source, Exit exit, int depth, JsonEvents& events)
      : source_(source), exit_(exit), limit_(depth), events_(events) {}

  bool null() override { return pass(Json()); }
  bool boolean(bool value) override { return pass(Json(value)); }
  bool number_integer(number_integer_t value) override { return pass(Json(int64_t(value))); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > uint64_t(std::numeric_limits<int64_t>::max())) return pass(Json(double(value)));
    return pass(Json(int64_t(value)));
  }
  bool number_float(number_float_t value, const string_t&) override { return pass(Json(double(value))); }
  bool string(string_t& value) override { return pass(Json(std::move(value))); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override {
    deeper();
    events_.begin_object();
    return true;
  }
  bool key(string_t& name) override {
    events_.key(std::move(name));
    return true;
  }
  bool end_object() override {
    depth_--;
    events_.end_object();
    return true;
  }
  bool start_array(std::size_t) override {
    deeper();
    events_.begin_array();
    return true;
  }
  bool end_array() override {
    depth_--;
    events_.end_array();
    return true;
  }
  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::detail::exception& e) override {
    (void)e;
    throw Error(exit_,
                cat(source_, ": not valid JSON at byte ", position, " near '", printable(token, 40), "'"));
  }

 private:
  bool pass(Json value) {
    events_.scalar(std::move(value));
    return true;
  }
  void deeper() {
    if (++depth_ > limit_)
      throw Error(exit_, cat(source_, ": JSON nested more than ", limit_, " levels deep"));
  }
  const std::string& source_;
  Exit exit_;
  int limit_, depth_ = 0;
  JsonEvents& events_;
};

class TreeBuilder final : public JsonEvents {
 public:
  TreeBuilder(const std::string& source, Exit exit, JsonLimits limits)
      : source_(source), exit_(exit), limits_(limits) {}

  void scalar(Json value) override { place(std::move(value)); }
  void key(std::string name) override {
    if (!keys_.back().insert(name).second)
      throw Error(exit_, cat(source_, ": the key '", printable(name), "' is given twice"));
    open_.back()->object.emplace_back(std::move(name), Json());
  }
  void begin_object() override { open(Json::make_object()); }
  void begin_array() override { open(Json::make_array()); }
  void end_object() override { close(); }
  void end_array() override { close(); }
  Json take() { return std::move(root_); }

 private:
  Json& place(Json value) {
    if (++count_ > limits_.values)
      throw Error(exit_, cat(source_, ": more than ", limits_.values, " JSON values"));
    if (open_.empty()) return root_ = std::move(value);
    Json& parent = *open_.back();
    if (parent.is(Json::Kind::array)) return parent.array.emplace_back(std::move(value));
    return parent.object.back().second = std::move(value);
  }
  // The address stays good while the value is open: its parent takes no other member before it is closed.
  void open(Json value) {
    open_.push_back(&place(std::move(value)));
    keys_.emplace_back();
  }
  void close() {
    open_.pop_back();
    keys_.pop_back();
  }
  const std::string& source_;
  Exit exit_;
  JsonLimits limits_;
  int64_t count_ = 0;
  Json root_;
  std::vector<Json*> open_;
  std::vector<std::unordered_set<std::string>> keys_;
};

void write_string(std::string& out, const std::string& text) {
  if (!valid_utf8(text))
    throw Error(Exit::failed,
                cat("text that is not valid UTF-8 cannot be written as JSON: '", printable(text, 40), "'"));
  out += '"';
  for (char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          const char* digits = "0123456789abcdef";
          out += "\\u00";
          out += digits[c >> 4];
          out += digits[c & 15];
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

void write_number(std::string& out, double value) {
  if (!std::isfinite(value))
    throw Error(Exit::failed, "a number that is not finite cannot be written as JSON");
  char digits[32];
  auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  std::string_view text(digits, size_t(end - digits));
  out += text;
  // A reader must see that it is no integer: Python checks the type of some fields.
  if (text.find_first_of(".e") == std::string_view::npos) out += ".0";
}

void write_value(std::string& out, const Json& value, int level) {
  const auto new_line = [&](int at) { out += '\n' + std::string(size_t(2 * at), ' '); };
  switch (value.kind) {
    case Json::Kind::null:
      out += "null";
      return;
    case Json::Kind::boolean:
      out += value.boolean ? "true" : "false";
      return;
    case Json::Kind::integer:
      out += std::to_string(value.integer);
      return;
    case Json::Kind::number:
      write_number(out, value.number);
      return;
    case Json::Kind::string:
      write_string(out, value.string);
      return;
    case Json::Kind::array: {
      bool flat = true;
      for (const Json& v : value.array)
        flat = flat && (v.is(Json::Kind::integer) || v.is(Json::Kind::number));
      out += '[';
      for (size_t i = 0; i < value.array.size(); i++) {
        if (i) out += flat ? ", " : ",";
        if (!flat) new_line(level + 1);
        write_value(out, value.array[i], level + 1);
      }
      if (!flat) new_line(level);
      out += ']';
      return;
    }
    case Json::Kind::object:
      out += '{';
      for (size_t i = 0; i < value.object.size(); i++) {
        if (i) out += ',';
        new_line(level + 1);
        write_string(out, value.object[i].first);
        out += ": ";
        write_value(out, value.object[i].second, level + 1);
      }
      if (!value.object.empty()) new_line(level);
      out += '}';
  }
}

}  // namespace

const char* name_of(Json::Kind kind) {
  switch (kind) {
    case Json::Kind::null:
      return "null";
    case Json::Kind::boolean:
      return "true or false";
    case Json::Kind::integer:
      return "an integer";
    case Json::Kind::number:
      return "a number";
    case Json::Kind::string:
      return "a string";
    case Json::Kind::array:
      return "a list";
    case Json::Kind::object:
      return "an object";
  }
  return "?";
}

const Json* Json::find(std::string_view key) const {
  if (kind != Kind::object) return nullptr;
  for (const auto& member : object)
    if (member.first == key) return &member.second;
  return nullptr;
}

Json& Json::set(std::string key, Json value) {
  JAMBALAYA_CHECK(kind == Kind::object && !find(key), "key ", key);
  object.emplace_back(std::move(key), std::move(value));
  return *this;
}

std::string Json::text() const {
  std::string out;
  write_value(out, *this, 0);
  return out;
}

std::string Json::line() const {
  std::string out;
  bool indent = false;  // strings hold no line breaks: JSON escapes them
  for (const char c : text()) {
    if (c == '\n')
      indent = true;
    else if (!indent || c != ' ') {
      indent = false;
      out += c;
    }
  }
  return out;
}

void parse_json_events(std::string_view text, const std::string& source, Exit exit, int depth,
                       JsonEvents& events) {
  Adapter adapter(source, exit, depth, events);
  nlohmann::json::sax_parse(text.begin(), text.end(), &adapter);
}

Json parse_json(std::string_view text, const std::string& source, Exit exit, JsonLimits limits) {
  if (!valid_utf8(text)) throw Error(exit, cat(source, ": not valid UTF-8"));
  TreeBuilder builder(source, exit, limits);
  parse_json_events(text, source, exit, limits.depth, builder);
  return builder.take();
}

JsonReader::JsonReader(const Json& object, std::string source, Exit exit)
    : object_(object), source_(std::move(source)), exit_(exit) {
  if (!object.is(Json::Kind::object)) throw Error(exit, cat(source_, ": an object {...} is expected here"));
}

void JsonReader::fail(std::string_view key, const std::string& rule) const {
  throw Error(exit_, cat(source_, ": ", key, ": ", rule));
}

bool JsonReader::has(std::string_view key) const {
  const Json* value = object_.find(key);
  return value && !value->is(Json::Kind::null);
}

const Json& JsonReader::at(std::string_view key, Json::Kind kind) const {
  const Json* value = object_.find(key);
  if (!value) fail(key, "missing");
  if (!value->is(kind)) fail(key, cat(name_of(kind), " is expected, not ", name_of(value->kind)));
  return *value;
}

int64_t JsonReader::integer(std::string_view key) const { return at(key, Json::Kind::integer).integer; }
bool JsonReader::boolean(std::string_view key) const { return at(key, Json::Kind::boolean).boolean; }
const std::string& JsonReader::string(std::string_view key) const {
  return at(key, Json::Kind::string).string;
}

double JsonReader::number(std::string_view key) const {
  const Json* value = object_.find(key);
  if (!value) fail(key, "missing");
  return number_of(*value, key);
}

double JsonReader::number_of(const Json& value, std::string_view key) const {
  if (value.is(Json::Kind::integer) || value.is(Json::Kind::number)) return value.number;
  if (value.is(Json::Kind::string) && value.string == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (value.is(Json::Kind::string) && value.string == "inf") return std::numeric_limits<double>::infinity();
  if (value.is(Json::Kind::string) && value.string == "-inf") return -std::numeric_limits<double>::infinity();
  fail(key, cat("a number is expected, not ", name_of(value.kind)));
}

std::vector<double> JsonReader::numbers(std::string_view key) const {
  std::vector<double> values;
  for (const Json& value : at(key, Json::Kind::array).array) values.push_back(number_of(value, key));
  return values;
}

std::vector<int64_t> JsonReader::integers(std::string_view key) const {
  std::vector<int64_t> values;
  for (const Json& value : at(key, Json::Kind::array).array) {
    if (!value.is(Json::Kind::integer)) fail(key, "a list of integers is expected");
    values.push_back(value.integer);
  }
  return values;
}

JsonReader JsonReader::child(std::string_view key) const {
  return JsonReader(at(key, Json::Kind::object), cat(source_, ": ", key), exit_);
}

Json json_number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  return value;
}

}  // namespace jambalaya
