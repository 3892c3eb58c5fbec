#include "train/interop/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/support/files.h"

namespace jambalaya {
namespace {

using namespace test;

std::string packed(const std::string& header, const std::string& data = "") {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}
std::string entry(const std::string& name, const std::string& type, const std::string& shape,
                  const std::string& offsets) {
  return cat("\"", name, R"(":{"dtype":")", type, R"(","shape":[)", shape, R"(],"data_offsets":[)", offsets,
             "]}");
}
std::string one(const std::string& type, const std::string& shape, const std::string& offsets, size_t bytes) {
  return packed(cat("{", entry("a", type, shape, offsets), "}"), std::string(bytes, '\0'));
}

struct Attack {
  std::string name, bytes, message;
};

std::string with_length(uint64_t length, const std::string& rest) {
  return std::string(reinterpret_cast<const char*>(&length), 8) + rest;
}

std::vector<Attack> attacks() {
  const std::string ok = R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  const std::string four(4, '\0');
  std::string nested = "{\"a\":";
  for (int i = 0; i < 100000; i++) nested += "[";
  std::string many_dims;
  for (int i = 0; i < 1000; i++) many_dims += i ? ",1" : "1";
  std::string many = "{";
  for (int i = 0; i < 100000; i++) many += cat(i ? "," : "", entry(cat("t", i), "F32", "2", "0,8"));
  return {
      {"empty", "", "0 bytes"},
      {"seven_bytes", "1234567", "7 bytes"},
      {"no_header", with_length(0, ""), "must begin with '{'"},
      {"length_2_63", with_length(uint64_t(1) << 63, "{}"), "at most 100000000"},
      {"length_above_limit", with_length(100000001, "{}"), "at most 100000000"},
      {"length_beyond_file", with_length(1000, "{}"), "in a file of"},
      {"length_inside_data", with_length(10, cat("{", ok, "}", four)), "not valid JSON"},
      {"not_utf8", packed("{\"\xff\":1}"), "UTF-8"},
      {"overlong_utf8", packed("{\"\xc0\xaf\":1}"), "UTF-8"},
      {"brace_only", packed("{"), "not valid JSON"},
      {"top_level_array", packed("[]"), "must begin with '{'"},
      {"trailing_junk", packed(cat("{", ok, "}x"), four), "not valid JSON"},
      {"leading_space", packed(cat(" {", ok, "}"), four), "must begin with '{'"},
      {"byte_order_mark", packed(cat("\xef\xbb\xbf{", ok, "}"), four), "must begin with '{'"},
      {"duplicate_name", packed(cat("{", ok, ",", ok, "}"), four), "'a': the name is given twice"},
      {"duplicate_key",
       packed(R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", four),
       "'dtype' is given twice"},
      {"duplicate_metadata", packed(R"({"__metadata__":{"x":"1","x":"2"}})"), "'x' is given twice"},
      {"unknown_key", packed(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", four),
       "unknown key 'x'"},
      {"missing_key", packed(R"({"a":{"dtype":"F32","shape":[1]}})", four), "must all be there"},
      {"unknown_dtype", one("F33", "1", "0,4", 4), "unknown dtype 'F33'"},
      {"dtype_number", packed(R"({"a":{"dtype":1,"shape":[1],"data_offsets":[0,4]}})", four),
       "dtype must be a string"},
      {"dtype_list", packed(R"({"a":{"dtype":[],"shape":[1],"data_offsets":[0,4]}})", four),
       "does not belong into dtype"},
      {"negative_shape", one("F32", "-1", "0,4", 4), "integers from 0 to 2^53"},
      {"float_shape", one("F32", "1.0", "0,4", 4), "integers from 0 to 2^53"},
      {"string_shape", one("F32", "\"1\"", "0,4", 4), "integers from 0 to 2^53"},
      {"nested_shape", one("F32", "[1]", "0,4", 4), "deep"},
      {"shape_2_64", one("F32", "18446744073709551616", "0,4", 4), "integers from 0 to 2^53"},
      {"shape_number", packed(R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", four),
       "does not belong into shape"},
      {"negative_offset", one("F32", "1", "-4,0", 4), "integers from 0 to 2^53"},
      {"float_offset", one("F32", "1", "0,4e0", 4), "integers from 0 to 2^53"},
      {"offset_2_64", one("F32", "1", "0,18446744073709551620", 4), "integers from 0 to 2^53"},
      {"one_offset", one("F32", "1", "4", 4), "must be two numbers"},
      {"three_offsets", one("F32", "1", "0,4,4", 4), "must be two numbers"},
      {"overflow_of_the_reference", one("F32", "2,18446744073709551614", "0,4", 4),
       "integers from 0 to 2^53"},
      {"overflow_signed", one("F32", "2,9223372036854775807", "0,4", 4), "integers from 0 to 2^53"},
      {"overflow_of_small_numbers", one("F32", "9007199254740992,9007199254740992", "0,4", 4),
       "too many elements"},
      {"offsets_swapped", one("F32", "1", "4,0", 4), "before they begin"},
      {"offsets_too_wide", one("F32", "1", "0,8", 8), "takes 4 bytes"},
      {"overlapping",
       packed(cat("{", entry("a", "F32", "1", "0,4"), ",", entry("b", "F32", "1", "2,6"), "}"),
              std::string(6, 'x')),
       "inside the tensor before"},
      {"same_data_100000_times", packed(cat(many, "}"), std::string(8, 'x')), "inside the tensor before"},
      {"hole",
       packed(cat("{", entry("a", "F32", "1", "0,4"), ",", entry("b", "F32", "1", "8,12"), "}"),
              std::string(12, 'x')),
       "leaving a hole"},
      {"hole_at_start", one("F32", "1", "4,8", 8), "leaving a hole"},
      {"file_too_long", one("F32", "1", "0,4", 5), "holds 5 after the header"},
      {"file_too_short", one("F32", "1", "0,4", 3), "holds 3 after the header"},
      {"deep_nesting", packed(nested), "an object is expected"},
      {"tensor_is_a_number", packed(R"({"a":1})"), "an object is expected"},
      {"tensor_is_a_list", packed(R"({"a":[]})"), "an object is expected"},
      {"metadata_number", packed(R"({"__metadata__":{"x":1}})"), "must be a string"},
      {"metadata_object", packed(R"({"__metadata__":{"x":{}}})"), "must be a string"},
      {"empty_name", packed(cat("{", entry("", "F32", "1", "0,4"), "}"), four), "1 to 512 bytes"},
      {"nul_in_name", packed(cat("{", entry("a\\u0000", "F32", "1", "0,4"), "}"), four),
       "control characters"},
      {"long_name", packed(cat("{", entry(std::string(513, 'n'), "F32", "1", "0,4"), "}"), four),
       "1 to 512 bytes"},
      {"thousand_dimensions", one("F32", many_dims, "0,4", 4), "more than 8 dimensions"},
      {"zero_size_with_bytes", one("F32", "0", "0,4", 4), "takes 0 bytes"},
      {"half_a_byte", one("F4", "1", "0,1", 1), "whole bytes"},
  };
}

TEST(SafeTensors, every_attack_is_refused_by_name) {
  TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  for (const Attack& attack : attacks()) {
    SCOPED_TRACE(attack.name);
    write_bytes(path, attack.bytes);
    const std::string message = error_of(Exit::bad_input, [&] { SafeTensorsFile file(path); });
    EXPECT_TRUE(mentions(message, path));
    EXPECT_TRUE(mentions(message, attack.message));
  }
}

TEST(SafeTensors, large_headers_are_bounded) {
  TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  write_bytes(path, packed(cat("{", std::string(99'000'000, ' '))));
  EXPECT_TRUE(mentions(error_of(Exit::bad_input, [&] { SafeTensorsFile file(path); }), "not valid JSON"));
  std::string header = "{";
  for (int i = 0; i <= 1'000'000; i++) header += cat(i ? "," : "", entry(cat(i), "U8", "0", "0,0"));
  write_bytes(path, packed(cat(header, "}")));
  EXPECT_TRUE(
      mentions(error_of(Exit::bad_input, [&] { SafeTensorsFile file(path); }), "more than 1000000 tensors"));
}

TEST(SafeTensors, odd_files_are_refused) {
  TemporaryFolder folder;
  EXPECT_TRUE(mentions(error_of(Exit::bad_input, [&] { SafeTensorsFile file(folder.path()); }),
                       "not a regular file"));
  EXPECT_TRUE(
      mentions(error_of(Exit::bad_input, [&] { SafeTensorsFile file(folder / "none"); }), "No such file"));
}

TEST(SafeTensors, scalars_and_empty_tensors_and_padding_are_read) {
  TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  const float value = 2.5f;
  write_bytes(path, packed(cat("{", entry("empty", "I64", "3,0", "0,0"), ",",
                               entry("scalar", "F32", "", "0,4"), R"(,"__metadata__":{"k":"v"}}   )"),
                           std::string(reinterpret_cast<const char*>(&value), 4)));
  const SafeTensorsFile file(path);
  EXPECT_EQ(file.metadata().at("k"), "v");
  EXPECT_EQ(file.find("empty")->numel(), 0);
  EXPECT_EQ(file.read_f32(*file.find("scalar")), std::vector<float>{2.5f});
  EXPECT_EQ(file.find("other"), nullptr);
}

TEST(SafeTensors, a_name_is_never_a_path) {
  TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  write_bytes(path, packed(cat("{", entry("../a", "F32", "1", "0,4"), "}"), std::string(4, '\0')));
  EXPECT_NE(SafeTensorsFile(path).find("../a"), nullptr);  // a legal name: nothing is ever opened by it
}

template <class T>
std::vector<float> converted(const std::string& type, const std::vector<T>& values) {
  TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  std::string data(values.size() * sizeof(T), '\0');
  std::memcpy(data.data(), values.data(), data.size());
  write_bytes(path,
              packed(cat("{", entry("a", type, cat(values.size()), cat("0,", data.size())), "}"), data));
  const SafeTensorsFile file(path);
  return file.read_f32(*file.find("a"));
}

TEST(SafeTensors, every_number_type_reads_as_f32) {
  EXPECT_EQ(converted<double>("F64", {1.5, -2}), (std::vector<float>{1.5f, -2}));
  EXPECT_EQ(converted<int64_t>("I64", {-7, 1 << 20}), (std::vector<float>{-7, 1 << 20}));
  EXPECT_EQ(converted<uint64_t>("U64", {7}), (std::vector<float>{7}));
  EXPECT_EQ(converted<int32_t>("I32", {-7}), (std::vector<float>{-7}));
  EXPECT_EQ(converted<int16_t>("I16", {-7}), (std::vector<float>{-7}));
  EXPECT_EQ(converted<uint8_t>("U8", {255}), (std::vector<float>{255}));
  EXPECT_EQ(converted<int8_t>("I8", {-7}), (std::vector<float>{-7}));
  EXPECT_EQ(converted<uint8_t>("BOOL", {1, 0}), (std::vector<float>{1, 0}));
  EXPECT_EQ(converted<uint16_t>("BF16", {0x3fc0, 0xc000, 0x0001}),
            (std::vector<float>{1.5f, -2, std::ldexp(1.f, -133)}));
  EXPECT_TRUE(mentions(error_of(Exit::bad_input, [] { converted<uint8_t>("F8_E4M3", {1}); }), "F8_E4M3"));
}

TEST(SafeTensors, all_half_floats_read_exactly) {
  std::vector<uint16_t> bits(65536);
  for (size_t i = 0; i < bits.size(); i++) bits[i] = uint16_t(i);
  const std::vector<float> values = converted<uint16_t>("F16", bits);
  for (size_t i = 0; i < bits.size(); i++) {
    const int exponent = int(i >> 10 & 31), mantissa = int(i & 1023), sign = i & 0x8000 ? -1 : 1;
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(values[i]), mantissa != 0);
      if (!mantissa) {
        EXPECT_EQ(values[i], float(sign) * std::numeric_limits<float>::infinity());
      }
      continue;
    }
    const double expected =
        sign * (exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24));
    ASSERT_EQ(values[i], float(expected)) << i;
    ASSERT_EQ(std::signbit(values[i]), sign < 0) << i;
  }
}

TensorSource constant(const std::string& name, std::vector<int64_t> shape, float start,
                      SafeType type = SafeType::f32) {
  return {name, type, std::move(shape), [start](int64_t first, int64_t count, float* out) {
            for (int64_t i = 0; i < count; i++) out[i] = start + float(first + i);
          }};
}

TEST(SafeTensors, what_is_written_reads_back) {
  TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  write_safetensors(
      path, {constant("b", {3, 2}, 1), constant("a \"q\"", {2}, -1, SafeType::bf16), constant("c", {1}, 9)});
  const SafeTensorsFile file(path);
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.tensors()[0].name, "b");  // the wider type first, then by name
  EXPECT_EQ(file.tensors()[1].name, "c");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.read_f32(*file.find("b")), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(file.read_f32(*file.find("a \"q\"")), (std::vector<float>{-1, 0}));
  uint64_t header = 0;
  std::memcpy(&header, read_bytes(path).data(), 8);
  EXPECT_EQ(header % 8, 0u);
  error_of(Exit::io, [&] { write_safetensors(path, {}); });  // an existing file is never written over
}

class Shards : public testing::Test {
 protected:
  void SetUp() override {
    write_safetensors_folder(folder.path(),
                             {constant("z", {4}, 0), constant("b", {8}, 10), constant("a", {2}, 30)}, 32);
    index = read_bytes(index_path());
  }
  std::string index_path() const { return folder / "model.safetensors.index.json"; }
  std::string refused_with(const std::string& from, const std::string& to) {
    std::string changed = index;
    const size_t at = changed.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    write_bytes(index_path(), changed.replace(at, from.size(), to));
    return error_of(Exit::bad_input, [&] { SafeTensorsFolder open(folder.path()); });
  }
  TemporaryFolder folder;
  std::string index;
};

TEST_F(Shards, are_filled_in_order_and_read_back) {
  const SafeTensorsFolder read(folder.path());
  EXPECT_EQ(read.files().size(), 3u);
  ASSERT_EQ(read.entries().size(), 3u);
  const auto& b = read.entries().at("b");
  EXPECT_EQ(b.file->path(), folder / "model-00002-of-00003.safetensors");
  EXPECT_EQ(b.file->read_f32(*b.tensor)[7], 17);
  EXPECT_TRUE(mentions(index, "\"total_size\": 56"));
}

TEST_F(Shards, a_bad_index_is_refused_by_name) {
  const std::string shard = "model-00001-of-00003.safetensors";
  EXPECT_TRUE(mentions(refused_with(shard, cat("../", shard)), "plain file name"));
  EXPECT_TRUE(mentions(refused_with(shard, "/etc/passwd"), "plain file name"));
  EXPECT_TRUE(mentions(refused_with(shard, ".."), "plain file name"));
  EXPECT_TRUE(mentions(refused_with(shard, "other.safetensors"), "missing from the folder"));
  EXPECT_TRUE(mentions(refused_with("\"a\"", "\"q\""), "tensor 'q' is not in shard"));
  EXPECT_TRUE(mentions(refused_with("\"a\"", "\"b\""), "given twice"));
  EXPECT_TRUE(mentions(refused_with("\"total_size\": 56", "\"total_size\": 57"), "total_size"));
  EXPECT_TRUE(mentions(refused_with("\"z\": ", "\"z\": 1, \"y\": "), "file name is expected"));
  EXPECT_TRUE(mentions(refused_with("weight_map", "weights"), "weight_map"));
  std::string fewer = index;
  const size_t line = fewer.find("    \"a\"");
  fewer.erase(line, fewer.find('\n', line) - line + 1);
  write_bytes(index_path(), fewer);
  EXPECT_TRUE(
      mentions(error_of(Exit::bad_input, [&] { SafeTensorsFolder open(folder.path()); }), "total_size"));
}

TEST_F(Shards, a_link_out_of_the_folder_is_refused) {
  TemporaryFolder other;
  const std::string shard = folder / "model-00001-of-00003.safetensors";
  std::filesystem::rename(shard, other / "x");
  std::filesystem::create_symlink(other / "x", shard);
  EXPECT_TRUE(mentions(error_of(Exit::bad_input, [&] { SafeTensorsFolder open(folder.path()); }),
                       "outside of the folder"));
}

TEST_F(Shards, an_unlisted_tensor_is_refused) {
  std::filesystem::remove(folder / "model-00003-of-00003.safetensors");
  write_safetensors(folder / "model-00003-of-00003.safetensors",
                    {constant("a", {2}, 30), constant("extra", {1}, 0)});
  EXPECT_TRUE(mentions(error_of(Exit::bad_input, [&] { SafeTensorsFolder open(folder.path()); }),
                       "'extra' is not listed"));
}

TEST_F(Shards, a_folder_with_both_forms_is_refused) {
  write_safetensors(folder / "model.safetensors", {constant("a", {2}, 30)});
  EXPECT_TRUE(
      mentions(error_of(Exit::bad_input, [&] { SafeTensorsFolder open(folder.path()); }), "holds both"));
}

}  // namespace
}  // namespace jambalaya
