#include "train/interop/safetensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <unordered_set>

#include "kernels/tensor.h"
#include "train/json.h"

namespace jambalaya {
namespace {

struct TypeInfo {
  SafeType type;
  const char* name;
  int bits;
};
constexpr TypeInfo type_table[] = {
    {SafeType::boolean, "BOOL", 8},
    {SafeType::f4, "F4", 4},
    {SafeType::f6_e2m3, "F6_E2M3", 6},
    {SafeType::f6_e3m2, "F6_E3M2", 6},
    {SafeType::u8, "U8", 8},
    {SafeType::i8, "I8", 8},
    {SafeType::f8_e5m2, "F8_E5M2", 8},
    {SafeType::f8_e4m3, "F8_E4M3", 8},
    {SafeType::f8_e8m0, "F8_E8M0", 8},
    {SafeType::f8_e4m3fnuz, "F8_E4M3FNUZ", 8},
    {SafeType::f8_e5m2fnuz, "F8_E5M2FNUZ", 8},
    {SafeType::i16, "I16", 16},
    {SafeType::u16, "U16", 16},
    {SafeType::f16, "F16", 16},
    {SafeType::bf16, "BF16", 16},
    {SafeType::i32, "I32", 32},
    {SafeType::u32, "U32", 32},
    {SafeType::f32, "F32", 32},
    {SafeType::c64, "C64", 64},
    {SafeType::f64, "F64", 64},
    {SafeType::i64, "I64", 64},
    {SafeType::u64, "U64", 64},
};

constexpr int64_t header_limit = 100'000'000;
constexpr size_t tensor_limit = 1'000'000, name_limit = 512, rank_limit = 8;
constexpr int64_t integer_limit = int64_t(1) << 53;  // what every JSON reader holds exactly

[[noreturn]] void refuse(const std::string& path, const std::string& rule) {
  throw Error(Exit::bad_input, cat(path, ": not a valid safetensors file: ", rule));
}
[[noreturn]] void refuse_tensor(const std::string& path, const std::string& name, const std::string& rule) {
  refuse(path, cat("tensor '", printable(name), "': ", rule));
}

/// Takes the header apart while it is parsed; any other structure than the format's is refused at once.
class HeaderReader final : public JsonEvents {
 public:
  HeaderReader(const std::string& path, std::vector<SafeTensor>& tensors,
               std::map<std::string, std::string>& metadata)
      : path_(path), tensors_(tensors), metadata_(metadata) {}

  void begin_object() override {
    if (place_ == Place::start)
      place_ = Place::top;
    else if (place_ == Place::top_value)
      begin_entry();
    else
      wrong_kind("an object");
  }
  void end_object() override {
    if (place_ == Place::entry) {
      if (seen_ != 7) refuse_tensor(path_, name_, "dtype, shape and data_offsets must all be there");
      place_ = Place::top;
    } else {
      place_ = place_ == Place::metadata ? Place::top : Place::start;
    }
  }
  void key(std::string name) override {
    if (place_ == Place::top) {
      top_key(std::move(name));
    } else if (place_ == Place::metadata) {
      metadata_key_ = std::move(name);
      if (metadata_.count(metadata_key_))
        refuse(path_, cat("the metadata key '", printable(metadata_key_), "' is given twice"));
    } else {
      entry_key(name);
    }
  }
  void begin_array() override {
    if (place_ == Place::shape_value)
      place_ = Place::shape;
    else if (place_ == Place::offsets_value)
      place_ = Place::offsets;
    else
      wrong_kind("a list");
  }
  void end_array() override {
    if (place_ == Place::offsets && offsets_ != 2)
      refuse_tensor(path_, name_, "data_offsets must be two numbers");
    place_ = Place::entry;
  }
  void scalar(Json value) override {
    switch (place_) {
      case Place::metadata:
        if (!value.is(Json::Kind::string))
          refuse(path_, cat("the metadata value of '", printable(metadata_key_), "' must be a string"));
        metadata_[metadata_key_] = value.string;
        return;
      case Place::dtype:
        set_type(value);
        return;
      case Place::shape:
        if (tensors_.back().shape.size() == rank_limit)
          refuse_tensor(path_, name_, cat("more than ", rank_limit, " dimensions"));
        tensors_.back().shape.push_back(count(value, "shape"));
        return;
      case Place::offsets:
        if (offsets_ == 2) refuse_tensor(path_, name_, "data_offsets must be two numbers");
        (offsets_++ ? tensors_.back().end : tensors_.back().begin) = count(value, "data_offsets");
        return;
      default:
        wrong_kind(name_of(value.kind));
    }
  }

 private:
  enum class Place : uint8_t {
    start,
    top,
    top_value,
    metadata,
    entry,
    dtype,
    shape_value,
    shape,
    offsets_value,
    offsets
  };

  void top_key(std::string name) {
    if (!names_.insert(name).second) refuse_tensor(path_, name, "the name is given twice");
    if (name.empty() || name.size() > name_limit)
      refuse_tensor(path_, name, cat("a name has 1 to ", name_limit, " bytes"));
    for (char c : name)
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
        refuse_tensor(path_, name, "a name must not hold control characters");
    name_ = std::move(name);
    place_ = Place::top_value;
  }
  void begin_entry() {
    if (name_ == "__metadata__") {
      place_ = Place::metadata;
      return;
    }
    if (tensors_.size() == tensor_limit) refuse(path_, cat("more than ", tensor_limit, " tensors"));
    tensors_.emplace_back().name = name_;
    seen_ = offsets_ = 0;
    place_ = Place::entry;
  }
  void entry_key(const std::string& name) {
    const int bit = name == "dtype" ? 1 : name == "shape" ? 2 : name == "data_offsets" ? 4 : 0;
    if (!bit) refuse_tensor(path_, name_, cat("unknown key '", printable(name), "'"));
    if (seen_ & bit) refuse_tensor(path_, name_, cat("the key '", name, "' is given twice"));
    seen_ |= bit;
    place_ = bit == 1 ? Place::dtype : bit == 2 ? Place::shape_value : Place::offsets_value;
  }
  void set_type(const Json& value) {
    if (!value.is(Json::Kind::string)) refuse_tensor(path_, name_, "dtype must be a string");
    for (const TypeInfo& info : type_table) {
      if (value.string != info.name) continue;
      tensors_.back().type = info.type;
      place_ = Place::entry;
      return;
    }
    refuse_tensor(path_, name_, cat("unknown dtype '", printable(value.string), "'"));
  }
  int64_t count(const Json& value, const char* what) {
    if (!value.is(Json::Kind::integer) || value.integer < 0 || value.integer > integer_limit)
      refuse_tensor(path_, name_, cat(what, " must be integers from 0 to 2^53"));
    return value.integer;
  }
  [[noreturn]] void wrong_kind(const char* what) {
    if (place_ == Place::start) refuse(path_, "the header must be a JSON object");
    if (place_ == Place::metadata)
      refuse(path_, cat("the metadata value of '", printable(metadata_key_), "' must be a string"));
    const char* key = place_ == Place::dtype                                   ? "dtype"
                      : place_ == Place::shape || place_ == Place::shape_value ? "shape"
                                                                               : "data_offsets";
    if (place_ == Place::top_value) refuse_tensor(path_, name_, cat("an object is expected, not ", what));
    refuse_tensor(path_, name_, cat(what, " does not belong into ", key));
  }

  const std::string& path_;
  std::vector<SafeTensor>& tensors_;
  std::map<std::string, std::string>& metadata_;
  std::unordered_set<std::string> names_;
  Place place_ = Place::start;
  std::string name_, metadata_key_;
  int seen_ = 0, offsets_ = 0;
};

/// Sizes and places: elements times width = bytes, no hole, no overlap, all data covered.
void check_layout(const std::string& path, std::vector<SafeTensor>& tensors, int64_t data_bytes) {
  std::sort(tensors.begin(), tensors.end(), [](const SafeTensor& a, const SafeTensor& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  int64_t at = 0;
  for (const SafeTensor& t : tensors) {
    int64_t bits = bits_of(t.type);
    for (int64_t n : t.shape)
      if (__builtin_mul_overflow(bits, n, &bits))
        refuse_tensor(path, t.name, "the shape has too many elements");
    if (bits % 8) refuse_tensor(path, t.name, "the elements do not fill whole bytes");
    if (t.end < t.begin)
      refuse_tensor(path, t.name, cat("data_offsets end at ", t.end, " before they begin at ", t.begin));
    if (t.end - t.begin != bits / 8)
      refuse_tensor(path, t.name,
                    cat(t.describe(), " takes ", bits / 8, " bytes, data_offsets span ", t.end - t.begin));
    if (t.begin != at)
      refuse_tensor(
          path, t.name,
          cat("data begins at ", t.begin,
              t.begin < at ? ", inside the tensor before (which ends at " : ", leaving a hole after ", at,
              t.begin < at ? ")" : ""));
    at = t.end;
  }
  if (at != data_bytes)
    refuse(path, cat("the tensors take ", at, " bytes, the file holds ", data_bytes, " after the header"));
}

float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000u) << 16, exponent = half >> 10 & 31, mantissa = half & 0x3ffu;
  uint32_t bits = sign | (exponent + 112) << 23 | mantissa << 13;
  if (exponent == 31) bits = sign | 0x7f800000u | mantissa << 13;
  float value;
  std::memcpy(&value, &bits, 4);
  if (exponent == 0) value = std::ldexp(float(mantissa), -24) * (sign ? -1.f : 1.f);
  return value;
}

template <class Stored, class Out>
void widen(const std::vector<char>& bytes, int64_t count, Out* out) {
  for (int64_t i = 0; i < count; i++) {
    Stored value;
    std::memcpy(&value, bytes.data() + size_t(i) * sizeof(Stored), sizeof(Stored));
    out[i] = Out(value);
  }
}

template <class Out>
bool convert(SafeType type, const std::vector<char>& bytes, int64_t count, Out* out) {
  switch (type) {
    case SafeType::f32:
      widen<float>(bytes, count, out);
      return true;
    case SafeType::f64:
      widen<double>(bytes, count, out);
      return true;
    case SafeType::i64:
      widen<int64_t>(bytes, count, out);
      return true;
    case SafeType::u64:
      widen<uint64_t>(bytes, count, out);
      return true;
    case SafeType::i32:
      widen<int32_t>(bytes, count, out);
      return true;
    case SafeType::u32:
      widen<uint32_t>(bytes, count, out);
      return true;
    case SafeType::i16:
      widen<int16_t>(bytes, count, out);
      return true;
    case SafeType::u16:
      widen<uint16_t>(bytes, count, out);
      return true;
    case SafeType::i8:
      widen<int8_t>(bytes, count, out);
      return true;
    case SafeType::u8:
    case SafeType::boolean:
      widen<uint8_t>(bytes, count, out);
      return true;
    case SafeType::bf16:
    case SafeType::f16:
      for (int64_t i = 0; i < count; i++) {
        uint16_t bits;
        std::memcpy(&bits, bytes.data() + 2 * i, 2);
        out[i] = Out(type == SafeType::f16 ? half_to_float(bits) : to_float(bf16{bits}));
      }
      return true;
    default:
      return false;
  }
}

bool is_integer(SafeType type) {
  switch (type) {
    case SafeType::i64:
    case SafeType::u64:
    case SafeType::i32:
    case SafeType::u32:
    case SafeType::i16:
    case SafeType::u16:
    case SafeType::i8:
    case SafeType::u8:
    case SafeType::boolean:
      return true;
    default:
      return false;
  }
}

}  // namespace

const char* name_of(SafeType type) { return type_table[size_t(type)].name; }
int64_t bits_of(SafeType type) { return type_table[size_t(type)].bits; }

int64_t SafeTensor::numel() const {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

std::string SafeTensor::describe() const {
  std::string text = cat(name_of(type), " [");
  for (size_t i = 0; i < shape.size(); i++) text += cat(i ? ", " : "", shape[i]);
  return text + "]";
}

SafeTensorsFile::SafeTensorsFile(std::string path) : path_(std::move(path)) {
  int64_t bytes = 0;
  file_ = open_regular_file(path_, bytes);
  if (bytes < 8) refuse(path_, cat(bytes, " bytes, shorter than the 8 of the header's length"));
  unsigned char length[8];
  read_exactly(file_, path_, 0, 8, length);
  uint64_t header_bytes = 0;
  for (int i = 0; i < 8; i++) header_bytes |= uint64_t(length[i]) << (8 * i);
  if (header_bytes > uint64_t(header_limit))
    refuse(path_, cat("a header of ", header_bytes, " bytes; at most ", header_limit, " are allowed"));
  if (header_bytes > uint64_t(bytes - 8))
    refuse(path_, cat("a header of ", header_bytes, " bytes in a file of ", bytes));
  std::string header(size_t(header_bytes), '\0');
  read_exactly(file_, path_, 8, int64_t(header_bytes), header.data());
  if (header.empty() || header[0] != '{') refuse(path_, "the header must begin with '{'");
  if (!valid_utf8(header)) refuse(path_, "the header is not valid UTF-8");
  HeaderReader reader(path_, tensors_, metadata_);
  parse_json_events(header, cat(path_, ": safetensors header"), Exit::bad_input, 3, reader);
  data_at_ = 8 + int64_t(header_bytes);
  check_layout(path_, tensors_, bytes - data_at_);
  for (size_t i = 0; i < tensors_.size(); i++) by_name_[tensors_[i].name] = i;
}

const SafeTensor* SafeTensorsFile::find(const std::string& name) const {
  auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

std::vector<char> SafeTensorsFile::read_bytes(const SafeTensor& tensor, int64_t first, int64_t count) const {
  JAMBALAYA_CHECK(0 <= first && 0 <= count && first + count <= tensor.numel(), tensor.name);
  if (bits_of(tensor.type) % 8)
    refuse_tensor(path_, tensor.name, cat(name_of(tensor.type), " elements are not supported"));
  const int64_t width = bits_of(tensor.type) / 8;
  std::vector<char> bytes(size_t(count * width));
  read_exactly(file_, path_, data_at_ + tensor.begin + first * width, count * width, bytes.data());
  return bytes;
}

void SafeTensorsFile::read_f32(const SafeTensor& tensor, int64_t first, int64_t count, float* out) const {
  constexpr int64_t chunk = 1 << 20;  // bounds the staging buffer
  for (int64_t done = 0; done < count; done += chunk) {
    const int64_t n = std::min(chunk, count - done);
    if (!convert(tensor.type, read_bytes(tensor, first + done, n), n, out + done))
      refuse_tensor(path_, tensor.name, cat(name_of(tensor.type), " cannot be read as f32"));
  }
}

std::vector<float> SafeTensorsFile::read_f32(const SafeTensor& tensor) const {
  std::vector<float> values(size_t(tensor.numel()));
  read_f32(tensor, 0, tensor.numel(), values.data());
  return values;
}

std::vector<double> SafeTensorsFile::read_f64(const SafeTensor& tensor) const {
  std::vector<double> values(size_t(tensor.numel()));
  if (!convert(tensor.type, read_bytes(tensor, 0, tensor.numel()), tensor.numel(), values.data()))
    refuse_tensor(path_, tensor.name, cat(name_of(tensor.type), " cannot be read as f64"));
  return values;
}

std::vector<int64_t> SafeTensorsFile::read_i64(const SafeTensor& tensor) const {
  if (!is_integer(tensor.type))
    refuse_tensor(path_, tensor.name, cat("integers are expected, not ", name_of(tensor.type)));
  std::vector<int64_t> values(size_t(tensor.numel()));
  convert(tensor.type, read_bytes(tensor, 0, tensor.numel()), tensor.numel(), values.data());
  return values;
}

}  // namespace jambalaya
