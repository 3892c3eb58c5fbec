#include "train/checkpoint/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <functional>

#include "tests/support/files.h"
#include "train/checkpoint/manifest.h"

namespace jambalaya {
namespace {

using namespace test;

namespace fs = std::filesystem;

/// A tensor [6, 4, 3] cut into boxes of which each element's value is its global index.
struct Boxes {
  std::vector<Box> boxes;
  std::vector<std::unique_ptr<std::vector<float>>> memory;

  void add(const std::string& name, std::vector<int64_t> offset, std::vector<int64_t> shape, bool filled) {
    memory.push_back(std::make_unique<std::vector<float>>());
    std::vector<float>& values = *memory.back();
    for (int64_t i = 0; i < shape[0]; i++)
      for (int64_t j = 0; j < shape[1]; j++)
        for (int64_t k = 0; k < shape[2]; k++)
          values.push_back(filled ? float(((offset[0] + i) * 4 + offset[1] + j) * 3 + offset[2] + k) : -1.f);
    boxes.push_back(
        {name, {6, 4, 3}, std::move(offset), make_tensor(values.data(), {shape[0], shape[1], shape[2]})});
  }
};

Boxes whole(bool filled) {
  Boxes b;
  b.add("param/w", {0, 0, 0}, {6, 4, 3}, filled);
  b.add("adam_m/w", {0, 0, 0}, {6, 4, 3}, filled);
  return b;
}

Boxes cut(bool filled) {
  Boxes b;
  for (const char* name : {"param/w", "adam_m/w"}) {
    b.add(name, {0, 0, 0}, {5, 2, 3}, filled);
    b.add(name, {5, 0, 0}, {1, 2, 3}, filled);
    b.add(name, {0, 2, 0}, {6, 2, 1}, filled);
    b.add(name, {0, 2, 1}, {6, 2, 2}, filled);
  }
  return b;
}

TrainState state_at(int64_t step) {
  TrainState s;
  s.step = step;
  s.tokens = 1000 * step;
  s.optimizer_steps = step - 1;
  s.loader = R"({"position": 3})";
  s.loss_window = {1.0 / 3, std::nan(""), INFINITY, -INFINITY, 5};
  s.metrics_bytes = 77;
  s.config_yaml = "run:\n  seed: 1\n";
  s.tokenizer_json = "{}";
  s.seconds = 0.1;
  return s;
}

class Checkpoint : public testing::Test {
 protected:
  void TearDown() override { observe_saves(nullptr); }
  std::string save(int64_t step, const Boxes& boxes) {
    const auto world = make_single_communicator();
    return save_checkpoint(*world, folder.path(), boxes.boxes, state_at(step), ModelConfig{}, false);
  }
  std::string save(int64_t step) { return save(step, whole(true)); }
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(folder.path()))
      out.push_back(entry.path().filename().string());
    std::sort(out.begin(), out.end());
    return out;
  }
  TemporaryFolder folder;
};

void expect_loads(const CheckpointInfo& info, Boxes wanted, const Boxes& expected) {
  read_boxes(info, wanted.boxes);
  for (size_t i = 0; i < wanted.memory.size(); i++)
    EXPECT_EQ(*wanted.memory[i], *expected.memory[i]) << wanted.boxes[i].name;
}

TEST_F(Checkpoint, any_cut_loads_under_any_other) {
  const CheckpointInfo one = open_checkpoint(save(1, whole(true)));
  const CheckpointInfo many = open_checkpoint(save(2, cut(true)));
  expect_loads(one, whole(false), whole(true));
  expect_loads(one, cut(false), cut(true));
  expect_loads(many, whole(false), whole(true));
  expect_loads(many, cut(false), cut(true));
}

TEST_F(Checkpoint, the_state_comes_back_to_the_bit) {
  const CheckpointInfo info = open_checkpoint(save(7));
  const TrainState expected = state_at(7);
  EXPECT_EQ(info.state.step, 7);
  EXPECT_EQ(info.state.tokens, expected.tokens);
  EXPECT_EQ(info.state.optimizer_steps, 6);
  EXPECT_EQ(info.state.loader, expected.loader);
  EXPECT_EQ(info.state.metrics_bytes, 77);
  EXPECT_EQ(info.state.config_yaml, expected.config_yaml);
  EXPECT_EQ(info.state.tokenizer_json, "{}");
  EXPECT_EQ(info.state.seconds, 0.1);
  ASSERT_EQ(info.state.loss_window.size(), 5u);
  EXPECT_EQ(info.state.loss_window[0], 1.0 / 3);
  EXPECT_TRUE(std::isnan(info.state.loss_window[1]));
  EXPECT_EQ(info.state.loss_window[3], -INFINITY);
  EXPECT_EQ(info.model.hidden_size, ModelConfig{}.hidden_size);
  EXPECT_EQ(read_bytes(folder / "latest"), "step-00000007\n");
}

TEST_F(Checkpoint, boxes_must_hold_each_element_once) {
  Boxes twice = whole(true);
  twice.add("param/w", {1, 0, 0}, {1, 1, 1}, true);
  EXPECT_TRUE(mentions(error_of(Exit::failed, [&] { save(1, twice); }), "two boxes"));
  Boxes hole = cut(true);
  hole.boxes.erase(hole.boxes.begin() + 1);
  EXPECT_TRUE(mentions(error_of(Exit::failed, [&] { save(1, hole); }), "its boxes hold 66 of 72 elements"));
  EXPECT_TRUE(names().empty());
}

TEST_F(Checkpoint, missing_and_other_tensors_are_named) {
  const CheckpointInfo info = open_checkpoint(save(1));
  Boxes wanted = whole(false);
  wanted.boxes[0].name = "param/v";
  EXPECT_TRUE(mentions(error_of(Exit::checkpoint, [&] { read_boxes(info, wanted.boxes); }), "param/v"));
  wanted = whole(false);
  wanted.boxes[1].global_shape = {6, 4, 4};
  EXPECT_TRUE(mentions(error_of(Exit::checkpoint, [&] { read_boxes(info, wanted.boxes); }),
                       "adam_m/w is [6, 4, 3] there, but [6, 4, 4]"));
}

TEST_F(Checkpoint, every_torn_file_is_refused_by_name) {
  const std::string path = save(1), other = save(2, cut(true));
  for (const std::string name : {"rank-00000.h5", "manifest.json", "config.yaml", "tokenizer.json"}) {
    const std::string file = path + "/" + name, good = read_bytes(file);
    const auto refused = [&](const std::string& bytes) {
      write_bytes(file, bytes);
      EXPECT_TRUE(mentions(error_of(Exit::checkpoint, [&] { open_checkpoint(path); }), file));
    };
    for (size_t length : {size_t(0), size_t(1), good.size() / 2, good.size() - 1})
      refused(good.substr(0, length));
    refused(good + "x");
    for (int i = 0; i < 40; i++) {
      std::string flipped = good;
      flipped[good.size() * size_t(i) / 40] = char(flipped[good.size() * size_t(i) / 40] ^ (1 << i % 8));
      refused(flipped);
    }
    if (name != "config.yaml" && name != "tokenizer.json" && name != "manifest.json")
      refused(read_bytes(other + "/" + name));
    fs::remove(file);
    EXPECT_TRUE(mentions(error_of(Exit::checkpoint, [&] { open_checkpoint(path); }), file));
    write_bytes(file, good);
    EXPECT_EQ(open_checkpoint(path).state.step, 1);
  }
}

TEST_F(Checkpoint, the_newest_good_one_is_found_and_broken_ones_are_named) {
  save(1);
  const std::string second = save(2), third = save(3);
  write_bytes(third + "/rank-00000.h5", "torn");
  fs::create_directory(folder / "step-00000009.tmp-1-1");
  std::string warnings;
  EXPECT_EQ(newest_checkpoint(folder.path(), {}, &warnings)->state.step, 2);
  EXPECT_TRUE(mentions(warnings, "step-00000003"));
  EXPECT_EQ(newest_checkpoint(folder.path(), {second}, nullptr)->state.step, 1);
  EXPECT_EQ(newest_checkpoint(folder.path(), {"step-00000002"}, nullptr)->state.step, 1);
  EXPECT_FALSE(newest_checkpoint(folder / "none", {}, nullptr));
}

TEST_F(Checkpoint, a_path_may_be_the_run_the_folder_or_the_step) {
  const auto world = make_single_communicator();
  const Boxes boxes = whole(true);
  const std::string path =
      save_checkpoint(*world, folder / "checkpoints", boxes.boxes, state_at(4), ModelConfig{}, true);
  for (const std::string& given : {folder.path(), folder / "checkpoints", path, path + "/"}) {
    const CheckpointInfo info = resolve_checkpoint(given);
    EXPECT_EQ(info.state.step, 4) << given;
    EXPECT_TRUE(info.weights_only);
  }
  EXPECT_TRUE(
      mentions(error_of(Exit::checkpoint, [&] { resolve_checkpoint(folder / "none"); }), "no such folder"));
  fs::create_directory(folder / "empty");
  EXPECT_TRUE(mentions(error_of(Exit::checkpoint, [&] { resolve_checkpoint(folder / "empty"); }),
                       "no usable checkpoint"));
}

TEST_F(Checkpoint, a_step_saved_again_replaces_the_first) {
  save(5, whole(true));
  save(5, cut(true));
  EXPECT_EQ(open_checkpoint(folder / "step-00000005").tensors[0].boxes.size(), 4u);
  EXPECT_EQ(names(), (std::vector<std::string>{"latest", "step-00000005"}));
}

TEST_F(Checkpoint, pruning_keeps_the_last_the_permanent_and_the_newest_good) {
  for (int64_t step : {10, 15, 20, 25, 30}) save(step);
  write_bytes(folder / "step-00000030/rank-00000.h5", "torn");
  fs::create_directory(folder / "step-00000040.tmp-1-1");
  prune_checkpoints(folder.path(), 1, 20);
  EXPECT_EQ(names(), (std::vector<std::string>{"latest", "step-00000020", "step-00000025", "step-00000030"}));
}

TEST_F(Checkpoint, pruning_does_not_read_again_what_this_process_has_written) {
  for (int64_t step : {10, 20, 30}) save(step);
  const std::string file = folder / "step-00000030/rank-00000.h5";
  const auto bytes = int64_t(fs::file_size(file));
  std::fstream(file, std::ios::in | std::ios::out | std::ios::binary).seekp(bytes - 1).put('\x55');
  // Of another process: its hash tells that it is damaged, and the good one before it stays.
  prune_checkpoints(folder.path(), 1, 0);
  EXPECT_EQ(names(), (std::vector<std::string>{"latest", "step-00000020", "step-00000030"}));
  prune_checkpoints(folder.path(), 1, 0, {folder / "step-00000030/"});
  EXPECT_EQ(names(), (std::vector<std::string>{"latest", "step-00000020", "step-00000030"}));
  prune_checkpoints(folder.path(), 1, 0, {folder / "step-00000030"});
  EXPECT_EQ(names(), (std::vector<std::string>{"latest", "step-00000030"}));
  // What is gone is seen without reading.
  save(20);
  fs::remove(file);
  prune_checkpoints(folder.path(), 1, 0, {folder / "step-00000030"});
  EXPECT_EQ(names(), (std::vector<std::string>{"latest", "step-00000020", "step-00000030"}));
}

/// Runs `work` in a child process and returns its exit status.
int in_child(const std::function<void()>& work) {
  const pid_t child = fork();
  if (child == 0) {
    try {
      work();
    } catch (const Error& e) {
      _exit(int(e.exit()));
    }
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string stop_at;
void kill_there(std::string_view step) {
  if (step == stop_at) _exit(99);
}
void fail_there(std::string_view step) {
  if (step == stop_at) throw Error(Exit::io, "injected failure");
}

TEST_F(Checkpoint, a_process_killed_at_any_step_leaves_a_good_checkpoint) {
  save(1);
  for (const char* step :
       {"folder made", "rank file written", "ranks agree", "manifest written", "renamed", "published"}) {
    SCOPED_TRACE(step);
    stop_at = step;
    observe_saves(kill_there);
    EXPECT_EQ(in_child([&] { save(2); }), 99);
    observe_saves(nullptr);
    std::string warnings;
    const auto info = newest_checkpoint(folder.path(), {}, &warnings);
    ASSERT_TRUE(info);
    EXPECT_EQ(warnings, "");
    const bool published = stop_at == "renamed" || stop_at == "published";
    EXPECT_EQ(info->state.step, published ? 2 : 1);
    expect_loads(*info, cut(false), cut(true));
    fs::remove_all(folder / "step-00000002");
  }
}

TEST_F(Checkpoint, a_failure_before_the_rename_publishes_nothing) {
  save(1);
  for (const char* step : {"folder made", "rank file written", "ranks agree", "manifest written"}) {
    SCOPED_TRACE(step);
    stop_at = step;
    observe_saves(fail_there);
    EXPECT_TRUE(mentions(error_of(Exit::io, [&] { save(2); }), "injected failure"));
    EXPECT_EQ(newest_checkpoint(folder.path(), {}, nullptr)->state.step, 1);
  }
}

TEST_F(Checkpoint, a_full_disk_is_an_io_error_and_nothing_old_is_lost) {
  save(1);
  for (rlim_t limit : {1, 512, 2000}) {
    const int status = in_child([&] {
      std::signal(SIGXFSZ, SIG_IGN);  // writes beyond the limit fail instead
      const rlimit full{limit, limit};
      setrlimit(RLIMIT_FSIZE, &full);
      save(2);
    });
    EXPECT_EQ(status, int(Exit::io)) << limit;
  }
  EXPECT_EQ(names(), (std::vector<std::string>{"latest", "step-00000001"}));
  expect_loads(*newest_checkpoint(folder.path(), {}, nullptr), whole(false), whole(true));
}

}  // namespace
}  // namespace jambalaya
