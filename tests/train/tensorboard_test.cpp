// The event files of a run, decoded here byte by byte: framing with checksums, and for every step the numbers
// of metrics.jsonl; a run that was continued takes back what it does again.
#include "train/run/tensorboard.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "tests/support/training_run.h"

namespace jambalaya {
namespace {

/// CRC-32C a bit at a time (RFC 3720: polynomial 0x1EDC6F41, reflected), masked as in TensorFlow's records.
uint32_t masked_crc(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (char byte : bytes) {
    crc ^= uint8_t(byte);
    for (int bit = 0; bit < 8; bit++) crc = (crc & 1) ? (crc >> 1) ^ 0x82F63B78u : crc >> 1;
  }
  crc = ~crc;
  return std::rotr(crc, 15) + 0xa282ead8u;
}

uint64_t little(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | uint8_t(bytes[i]);
  return value;
}

/// The events of a file; a wrong length or checksum fails the test.
std::vector<std::string> records(const std::string& file) {
  std::vector<std::string> all;
  std::string_view rest = file;
  while (!rest.empty()) {
    EXPECT_GE(rest.size(), 16u);
    if (rest.size() < 16) break;
    const uint64_t length = little(rest.substr(0, 8));
    EXPECT_EQ(little(rest.substr(8, 4)), masked_crc(rest.substr(0, 8)));
    EXPECT_LE(length + 16, rest.size());
    if (length + 16 > rest.size()) break;
    EXPECT_EQ(little(rest.substr(12 + length, 4)), masked_crc(rest.substr(12, length)));
    all.emplace_back(rest.substr(12, length));
    rest.remove_prefix(16 + length);
  }
  return all;
}

/// Fields of a protocol buffer message in order: number, wire type, value (a number, or bytes).
struct Field {
  uint64_t number = 0, wire = 0, value = 0;
  std::string bytes;
};
std::vector<Field> fields(std::string_view rest) {
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0; !rest.empty(); shift += 7) {
      const auto byte = uint8_t(rest[0]);
      rest.remove_prefix(1);
      value |= uint64_t(byte & 0x7F) << shift;
      if (byte < 0x80) break;
    }
    return value;
  };
  std::vector<Field> all;
  while (!rest.empty()) {
    const uint64_t key = varint();
    Field f{.number = key >> 3, .wire = key & 7};
    const size_t fixed = f.wire == 1 ? 8 : f.wire == 5 ? 4 : 0;
    if (f.wire == 0)
      f.value = varint();
    else if (fixed)
      f.value = little(rest.substr(0, fixed)), rest.remove_prefix(std::min(fixed, rest.size()));
    else {
      const uint64_t length = varint();
      EXPECT_EQ(f.wire, 2u);
      EXPECT_LE(length, rest.size());
      f.bytes = rest.substr(0, length);
      rest.remove_prefix(std::min<size_t>(length, rest.size()));
    }
    all.push_back(f);
  }
  return all;
}

struct Event {
  double time = 0;
  int64_t step = 0;
  std::string version;
  int64_t session_status = -1;
  std::map<std::string, float> scalars;
};
Event event_of(const std::string& bytes) {
  Event e;
  for (const Field& f : fields(bytes)) {
    if (f.number == 1) e.time = std::bit_cast<double>(f.value);
    if (f.number == 2) e.step = int64_t(f.value);
    if (f.number == 3) e.version = f.bytes;
    if (f.number == 7) e.session_status = int64_t(fields(f.bytes).at(0).value);
    if (f.number != 5) continue;
    for (const Field& value : fields(f.bytes)) {
      EXPECT_EQ(value.number, 1u);
      const std::vector<Field> parts = fields(value.bytes);
      EXPECT_EQ(parts.size(), 2u);
      EXPECT_TRUE(parts.at(0).number == 1 && parts.at(1).number == 2 && parts.at(1).wire == 5);
      const bool first =
          e.scalars.emplace(parts[0].bytes, std::bit_cast<float>(uint32_t(parts[1].value))).second;
      EXPECT_TRUE(first) << "twice: " << parts[0].bytes;
    }
  }
  return e;
}

std::vector<std::string> event_files(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().string());
  std::sort(names.begin(), names.end());
  return names;
}

/// All scalars of a folder as TensorBoard comes to see them: files in the order of their names, a START takes
/// back its step and later ones.
std::map<int64_t, std::map<std::string, float>> read_folder(const std::string& folder) {
  std::map<int64_t, std::map<std::string, float>> steps;
  for (const std::string& file : event_files(folder)) {
    const std::vector<std::string> all = records(test::read_file(file));
    EXPECT_EQ(event_of(all.at(0)).version, "brain.Event:2");
    for (const std::string& record : all) {
      const Event event = event_of(record);
      EXPECT_GT(event.time, 1.7e9);
      if (event.session_status == 1) steps.erase(steps.lower_bound(event.step), steps.end());
      if (!event.scalars.empty()) {
        const bool first = steps.emplace(event.step, event.scalars).second;
        EXPECT_TRUE(first) << "step " << event.step << " twice";
      }
    }
  }
  return steps;
}

class TensorBoard : public testing::Test {
 protected:
  void SetUp() override {
    data_ = test::make_store(folder_, "data", test::random_texts(100, 60, 1));
    config_ = test::small_run(folder_.path("run"), data_);
  }
  /// Every step of metrics.jsonl has its event, and the other way round, with the same numbers.
  void expect_events_equal_metrics() {
    const auto steps = read_folder(config_.run.folder + "/tb");
    std::istringstream metrics(test::read_file(config_.run.folder + "/metrics.jsonl"));
    size_t lines = 0;
    for (std::string line; std::getline(metrics, line); lines++) {
      const Json json = parse_json(line, "metrics");
      ASSERT_TRUE(steps.contains(json.find("step")->integer)) << line;
      const std::map<std::string, float>& got = steps.at(json.find("step")->integer);
      const auto expect = [&](const char* tag, const Json* want, double factor = 1) {
        ASSERT_EQ(got.contains(tag), want != nullptr) << tag;
        if (want) {
          EXPECT_EQ(got.at(tag), float(want->number * factor)) << tag;
        }
      };
      const Json& timing = *json.find("timing");
      expect("train/loss", json.find("loss"));
      expect("train/tokens", json.find("tokens"));
      expect("optim/lr", json.find("lr"));
      expect("optim/grad_norm", json.find("grad_norm"));
      expect("val/loss", json.find("held_out_nats_per_token"));
      expect("val/bpb", json.find("held_out_bits_per_byte"));
      expect("moe/aux_loss", json.find("aux_loss"));
      expect("moe/load_max", json.find("max_expert_load"));
      expect("perf/tokens_per_s", timing.find("tokens_per_s"));
      expect("perf/step_s", timing.find("seconds"));
      expect("mem/rss_gib", timing.find("rss_bytes"), 1 / 0x1p30);
      EXPECT_EQ(got.at("optim/step_skipped"), json.find("skipped") ? 1 : 0);
      const Json* layers = json.find("layers");
      EXPECT_EQ(got.contains("activation/layer_02/channel_max"), layers != nullptr);
      for (size_t i = 0; layers && i < layers->array.size(); i++) {
        const std::string layer = cat("layer_0", i);
        const Json& of = layers->array[i];
        expect(cat("activation/", layer, "/mixer_max").c_str(), of.find("mixer_max"));
        expect(cat("mamba/", layer, "/delta_min").c_str(), of.find("delta_min"));
        expect(cat("mamba/", layer, "/delta_max").c_str(), of.find("delta_max"));
        double most = 0;
        if (const Json* load = of.find("expert_load")) {
          for (const Json& share : load->array)
            most = std::max(most, share.number * double(load->array.size()));
          EXPECT_FLOAT_EQ(got.at(cat("moe/", layer, "/load_max")), float(most));
        }
      }
    }
    EXPECT_EQ(lines, steps.size());
  }
  test::TemporaryFolder folder_;
  std::string data_;
  Config config_;
};

TEST_F(TensorBoard, every_number_is_that_of_the_metrics) {
  ASSERT_EQ(test::train(config_), Exit::ok);
  EXPECT_EQ(event_files(config_.run.folder + "/tb").size(), 1u);
  expect_events_equal_metrics();
}

TEST_F(TensorBoard, continued_run_takes_back_the_steps_that_it_does_again) {
  ASSERT_EQ(test::train(config_), Exit::ok);
  // As if it had been killed at step 12, with step 8 saved; twice in one second.
  for (int64_t step : {8, 4}) {
    std::filesystem::remove_all(test::checkpoint_path(config_.run.folder, 12));
    if (step == 4) std::filesystem::remove_all(test::checkpoint_path(config_.run.folder, 8));
    ASSERT_EQ(test::train(config_), Exit::ok);
    expect_events_equal_metrics();
  }
  EXPECT_EQ(event_files(config_.run.folder + "/tb").size(), 3u);
}

TEST_F(TensorBoard, run_that_starts_over_takes_back_everything) {
  config_.checkpoint.every = 100;
  ASSERT_EQ(test::train(config_), Exit::ok);
  std::filesystem::remove_all(config_.run.folder + "/checkpoints");
  config_.train.steps = 6;  // fewer than before
  ASSERT_EQ(test::train(config_), Exit::ok);
  expect_events_equal_metrics();
}

TEST_F(TensorBoard, no_events_are_written_when_they_are_off) {
  config_.log.tensorboard = false;
  ASSERT_EQ(test::train(config_), Exit::ok);
  EXPECT_FALSE(std::filesystem::exists(config_.run.folder + "/tb"));
}

TEST_F(TensorBoard, numbers_that_are_not_finite_stay_what_they_are) {
  StepReport report;
  report.step = 300;  // a step of two bytes
  report.seconds = 1;
  report.loss = std::nan("");
  report.gradient_norm = INFINITY;
  report.bad = "why";
  EventFile(folder_.path("events"), 1).write(report.step, scalars_of(report));
  const auto steps = read_folder(folder_.path("events"));
  ASSERT_TRUE(steps.contains(300));
  EXPECT_TRUE(std::isnan(steps.at(300).at("train/loss")));
  EXPECT_EQ(steps.at(300).at("optim/grad_norm"), INFINITY);
  EXPECT_EQ(steps.at(300).at("optim/step_skipped"), 1);
}

}  // namespace
}  // namespace jambalaya
