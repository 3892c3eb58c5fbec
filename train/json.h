// Strict JSON: duplicate keys, invalid UTF-8, deep nesting and trailing text are errors that name the place.
// The library behind it is included in json.cpp alone.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/error.h"

namespace jambalaya {

/// A JSON value. Objects keep the order of their keys; integers are apart from other numbers.
struct Json {
  enum class Kind : uint8_t { null, boolean, integer, number, string, array, object };
  Kind kind = Kind::null;
  bool boolean = false;
  int64_t integer = 0;
  double number = 0;  ///< set for integers too
  std::string string;
  std::vector<Json> array;
  std::vector<std::pair<std::string, Json>> object;

  Json() = default;
  Json(bool value) : kind(Kind::boolean), boolean(value) {}
  Json(int value) : Json(int64_t(value)) {}
  Json(int64_t value) : kind(Kind::integer), integer(value), number(double(value)) {}
  Json(double value) : kind(Kind::number), number(value) {}
  Json(std::string value) : kind(Kind::string), string(std::move(value)) {}
  Json(const char* value) : Json(std::string(value)) {}
  Json(const std::vector<int64_t>& values) : kind(Kind::array) {
    for (int64_t value : values) array.emplace_back(value);
  }
  static Json make_object() { return of_kind(Kind::object); }
  static Json make_array() { return of_kind(Kind::array); }

  bool is(Kind k) const { return kind == k; }
  /// Member of an object, or null when this is no object or has no such key.
  const Json* find(std::string_view key) const;
  Json& set(std::string key, Json value);  ///< appends; the key must be new. Returns this object
  /// As text, two spaces an indent level (arrays of plain numbers on one line); numbers read back to the same
  /// bits. Not-finite numbers and invalid UTF-8 cannot be expressed: Error(failed).
  std::string text() const;
  /// The same on one line, for files of one object a line.
  std::string line() const;

 private:
  static Json of_kind(Kind k) {
    Json j;
    j.kind = k;
    return j;
  }
};

const char* name_of(Json::Kind kind);  ///< "an object", "a string", ...

struct JsonLimits {
  int depth = 64;
  int64_t values = 20'000'000;
};
/// Throws Error(exit) with "source: ..." that says what is wrong and at which byte.
Json parse_json(std::string_view text, const std::string& source, Exit exit = Exit::bad_input,
                JsonLimits limits = {});

/// Receives the parts of a text in order, so that a caller can stop early; every handler may throw.
class JsonEvents {
 public:
  virtual ~JsonEvents() = default;
  virtual void scalar(Json value) = 0;  ///< null, boolean, integer, number or string
  virtual void key(std::string name) = 0;
  virtual void begin_object() = 0;
  virtual void end_object() = 0;
  virtual void begin_array() = 0;
  virtual void end_array() = 0;
};
void parse_json_events(std::string_view text, const std::string& source, Exit exit, int depth,
                       JsonEvents& events);

/// Typed reading of members, with errors that name source, key and rule.
class JsonReader {
 public:
  JsonReader(const Json& object, std::string source, Exit exit);
  bool has(std::string_view key) const;                         ///< there and not null
  const Json& at(std::string_view key, Json::Kind kind) const;  ///< there and of that kind
  int64_t integer(std::string_view key) const;
  double number(std::string_view key) const;  ///< an integer will do; "nan", "inf", "-inf" too
  bool boolean(std::string_view key) const;
  const std::string& string(std::string_view key) const;
  std::vector<int64_t> integers(std::string_view key) const;
  std::vector<double> numbers(std::string_view key) const;  ///< as number() reads them
  JsonReader child(std::string_view key) const;
  [[noreturn]] void fail(std::string_view key, const std::string& rule) const;

 private:
  double number_of(const Json& value, std::string_view key) const;
  const Json& object_;
  std::string source_;
  Exit exit_;
};

/// A number that may be NaN or infinite, for which JSON has no form.
Json json_number(double value);

}  // namespace jambalaya
