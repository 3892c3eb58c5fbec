// Export and import of checkpoints that no memory need hold whole; what they refuse to replace.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/files.h"
#include "train/checkpoint/whole.h"
#include "train/commands/commands.h"
#include "train/config.h"
#include "train/interop/safetensors.h"
#include "train/interop/weights.h"

namespace jambalaya {
namespace {

using namespace test;
namespace fs = std::filesystem;

constexpr const char* names[] = {"hybrid_moe", "odd_sizes", "tied_biased", "one_token", "pure_mamba"};

/// Memory of boxes that a test cuts out of parameters.
struct Cut {
  std::vector<Box> boxes;
  std::vector<std::unique_ptr<std::vector<float>>> memory;
};

/// Every tensor in up to three parts of its last dimension, as ranks that each hold columns would write it:
/// a part of a matrix is then in several boxes.
Cut cut_columns(const Parameters& parameters) {
  Cut cut;
  for (int row = 0; row < int(parameters.table().size()); row++) {
    const ParameterRow& r = parameters.table()[size_t(row)];
    const float* values = parameters.master(row).ptr<float>();
    const int64_t width = r.shape.back(), lines = r.numel() / width;
    for (int64_t part = 0; part < 3; part++) {
      const int64_t begin = width * part / 3, end = width * (part + 1) / 3;
      if (begin == end) continue;
      auto& piece = *cut.memory.emplace_back(std::make_unique<std::vector<float>>());
      for (int64_t line = 0; line < lines; line++)
        piece.insert(piece.end(), values + line * width + begin, values + line * width + end);
      std::vector<int64_t> offset(r.shape.size(), 0), shape = r.shape;
      offset.back() = begin;
      shape.back() = end - begin;
      cut.boxes.push_back(box_at("param/" + r.name, r.shape, offset, shape, piece.data()));
    }
  }
  return cut;
}

CheckpointInfo save_cut(const std::string& folder, const Parameters& parameters) {
  const Cut cut = cut_columns(parameters);
  return open_checkpoint(
      save_checkpoint(*make_single_communicator(), folder, cut.boxes, {}, parameters.config(), true));
}

TEST(Streaming, a_cut_checkpoint_exports_to_the_same_bytes_with_one_tensor_in_memory) {
  for (const char* name : names) {
    SCOPED_TRACE(name);
    Parameters parameters(read_model_config(golden(name)), Precision::f32, false);
    import_weights(golden(name), parameters);
    TemporaryFolder out;
    const CheckpointInfo info = save_cut(out / "checkpoint", parameters);
    const std::vector<HfTensor> parts = export_parts(info.model, ExportFormat::huggingface);
    int64_t all = 0, largest = 0;
    for (const HfTensor& part : parts) {
      int64_t bytes = 4;
      for (int64_t extent : part.hf_shape) bytes *= extent;
      all += bytes;
      largest = std::max(largest, bytes);
    }
    CheckpointWeights weights(info, largest_part(parts));
    export_weights(out / "model", weights, {}, false);
    EXPECT_EQ(read_bytes(out / "model/model.safetensors"), read_bytes(golden(name) + "/model.safetensors"));
    EXPECT_LE(weights.memory().high_water(), largest + 63);
    EXPECT_GE(weights.memory().high_water(), largest);
    EXPECT_GT(all, 2 * largest) << "a model of one tensor proves nothing";
  }
}

TEST(Streaming, every_format_of_the_export_is_that_of_whole_parameters) {
  Parameters parameters(read_model_config(golden("hybrid_moe")), Precision::f32, false);
  import_weights(golden("hybrid_moe"), parameters);
  TemporaryFolder out;
  const CheckpointInfo info = save_cut(out / "checkpoint", parameters);
  for (const char* format : {"huggingface", "native"}) {
    for (const char* dtype : {"f32", "bf16"}) {
      const std::string streamed = out / cat(format, dtype, "-streamed"), whole = out / cat(format, dtype);
      testing::internal::CaptureStdout();
      EXPECT_EQ(run_export({info.path, streamed, format, dtype, 100'000, false, true}), 0);
      testing::internal::GetCapturedStdout();
      ExportOptions options;
      options.format = std::string(format) == "native" ? ExportFormat::native : ExportFormat::huggingface;
      options.dtype = dtype;
      options.max_shard_bytes = 100'000;
      export_weights(whole, parameters, options, false);
      int files = 0;
      for (const auto& entry : fs::directory_iterator(whole)) {
        files++;
        EXPECT_EQ(read_bytes(entry.path().string()),
                  read_bytes(streamed + "/" + entry.path().filename().string()))
            << entry.path();
      }
      EXPECT_GT(files, 3);
    }
  }
}

TEST(Streaming, a_checkpoint_without_all_weights_is_not_exported) {
  Parameters parameters(read_model_config(golden("dense")), Precision::f32, false);
  import_weights(golden("dense"), parameters);
  TemporaryFolder out;
  Cut cut = cut_columns(parameters);
  const std::string missing = cut.boxes.back().name;
  std::erase_if(cut.boxes, [&](const Box& box) { return box.name == missing; });
  const std::string path = save_checkpoint(*make_single_communicator(), out / "checkpoint", cut.boxes, {},
                                           parameters.config(), true);
  EXPECT_TRUE(mentions(error_of(Exit::checkpoint, [&] { run_export({path, out / "model"}); }), missing));
  EXPECT_FALSE(fs::exists(out / "model/config.json"));
}

TEST(Streaming, an_import_is_the_files_to_the_bit) {
  for (const char* name : names) {
    SCOPED_TRACE(name);
    TemporaryFolder out;
    Parameters parameters(read_model_config(golden(name)), Precision::f32, false);
    import_weights(golden(name), parameters);
    testing::internal::CaptureStdout();
    EXPECT_EQ(run_import({golden(name), out / "checkpoint"}), 0);
    testing::internal::GetCapturedStdout();
    const CheckpointInfo info = resolve_checkpoint(out / "checkpoint");
    EXPECT_TRUE(info.weights_only);
    for (int row = 0; row < int(parameters.table().size()); row++) {
      const ParameterRow& r = parameters.table()[size_t(row)];
      std::vector<float> values(size_t(r.numel()));
      std::vector<Box> boxes{whole_box("param/" + r.name, r.shape, values.data())};
      read_boxes(info, boxes);
      EXPECT_EQ(std::memcmp(values.data(), parameters.master(row).data, values.size() * 4), 0) << r.name;
    }
  }
}

TEST(Streaming, an_import_leaves_a_config_that_fine_tunes_it) {
  for (const char* name : names) {
    SCOPED_TRACE(name);
    TemporaryFolder out;
    testing::internal::CaptureStdout();
    run_import({golden(name), out / "a folder"});
    testing::internal::GetCapturedStdout();
    const Config config = load_config(out / "a folder/config.yaml", {"data.folder=data"});
    EXPECT_EQ(model_to_yaml(config.model), model_to_yaml(read_model_config(golden(name))));
    EXPECT_EQ(resolve_checkpoint(config.train.init_from).path, resolve_checkpoint(out / "a folder").path);
  }
}

TEST(Streaming, an_import_replaces_a_checkpoint_only_when_asked) {
  TemporaryFolder out;
  testing::internal::CaptureStdout();
  run_import({golden("dense"), out.path()});
  const std::string message = error_of(Exit::usage, [&] { run_import({golden("hybrid_moe"), out.path()}); });
  EXPECT_TRUE(mentions(message, "step-00000000"));
  EXPECT_TRUE(mentions(message, "--overwrite"));
  const int64_t before = resolve_checkpoint(out.path()).model.num_experts;
  run_import({golden("hybrid_moe"), out.path(), true});
  testing::internal::GetCapturedStdout();
  EXPECT_NE(resolve_checkpoint(out.path()).model.num_experts, before);
}

TEST(Streaming, an_import_that_fails_half_way_says_why_and_leaves_nothing) {
  TemporaryFolder out;
  fs::copy(golden("dense"), out / "broken", fs::copy_options::recursive);
  std::string bytes = read_bytes(out / "broken/model.safetensors");
  const float nan = NAN;
  std::memcpy(bytes.data() + bytes.size() - 4, &nan, 4);
  write_bytes(out / "broken/model.safetensors", bytes);
  EXPECT_TRUE(mentions(error_of(Exit::bad_input,
                                [&] {
                                  run_import({out / "broken", out / "checkpoint"});
                                }),
                       "NaN"));
  EXPECT_TRUE(fs::is_empty(out / "checkpoint"));
}

TEST(Inspect, verify_tells_of_a_damaged_checkpoint_that_an_older_one_hides) {
  TemporaryFolder out;
  Parameters parameters(read_model_config(golden("dense")), Precision::f32, false);
  const Cut cut = cut_columns(parameters);
  std::string newest;
  for (int64_t step : {4, 8}) {
    TrainState state;
    state.step = step;
    newest =
        save_checkpoint(*make_single_communicator(), out.path(), cut.boxes, state, parameters.config(), true);
  }
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  EXPECT_EQ(run_inspect({out.path(), false, true}), 0);
  std::string bytes = read_bytes(newest + "/rank-00000.h5");
  bytes[bytes.size() / 2] ^= 1;
  write_bytes(newest + "/rank-00000.h5", bytes);
  EXPECT_TRUE(mentions(error_of(Exit::checkpoint,
                                [&] {
                                  run_inspect({out.path(), false, true});
                                }),
                       "damaged"));
  EXPECT_EQ(run_inspect({out.path(), false, false}), 0);
  EXPECT_TRUE(mentions(testing::internal::GetCapturedStderr(), "step-00000008"));
  EXPECT_TRUE(mentions(testing::internal::GetCapturedStdout(), "step-00000004"));
}

}  // namespace
}  // namespace jambalaya
