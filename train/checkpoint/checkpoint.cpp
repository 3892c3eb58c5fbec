// Saving: all ranks write their files into one temporary folder, agree that all went well, and only then does
// rank 0 give the folder its name. Whatever fails or is killed before that rename leaves older checkpoints
// untouched.
#include "train/checkpoint/checkpoint.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <numeric>
#include <utility>

#include "train/checkpoint/manifest.h"
#include "train/checkpoint/tensor_file.h"
#include "train/files.h"

namespace jambalaya {
namespace {

namespace fs = std::filesystem;

SaveObserver observer = nullptr;
void reached(std::string_view step) {
  if (observer) observer(step);
}

std::string inside(const std::string& folder, const std::string& name) {
  return (fs::path(folder) / name).string();
}

std::vector<int64_t> shape_of(const Tensor& tensor) {
  return {tensor.shape.begin(), tensor.shape.begin() + tensor.rank};
}

std::string step_name(int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return name;
}

/// Every rank's text on rank 0; nothing on the others.
std::vector<std::string> texts_on_root(Communicator& world, const std::string& text) {
  const auto ranks = size_t(world.size());
  int64_t length = int64_t(text.size());
  std::vector<int64_t> lengths(ranks), sent(ranks), received(ranks);
  world.all_gather(make_tensor(&length, {1}), make_tensor(lengths.data(), {world.size()}));
  sent[0] = length;
  if (world.rank() == 0) received = lengths;
  std::vector<uint8_t> mine(text.begin(), text.end());
  std::vector<uint8_t> all(size_t(std::accumulate(received.begin(), received.end(), int64_t(0))));
  world.all_to_all(make_tensor(mine.data(), {length}), sent, make_tensor(all.data(), {int64_t(all.size())}),
                   received);
  std::vector<std::string> texts;
  if (world.rank() != 0) return texts;
  const char* at = reinterpret_cast<const char*>(all.data());
  for (int64_t n : received) {
    texts.emplace_back(at, size_t(n));
    at += n;
  }
  return texts;
}

/// Rank 0's failure made everybody's: "" or "<exit code>:<message>".
struct Verdict {
  Exit exit = Exit::ok;
  std::string message;
};
template <class Work>
void on_root(Communicator& world, const Work& work) {
  Verdict verdict;
  if (world.rank() == 0) {
    try {
      work();
    } catch (const Error& e) {
      verdict = {e.exit(), e.what()};
    } catch (const std::exception& e) {
      verdict = {Exit::io, e.what()};
    }
  }
  int64_t code = int64_t(verdict.exit);
  world.broadcast(make_tensor(&code, {1}), 0);
  if (code == 0) return;
  broadcast_string(world, verdict.message);
  throw Error(Exit(code), verdict.message);
}

void check_space(const std::string& folder, int64_t bytes) {
  struct statvfs disk {};
  if (::statvfs(folder.c_str(), &disk) != 0) return;  // some file systems do not tell: writing will
  const double free = double(disk.f_bavail) * double(disk.f_frsize), needed = double(bytes) * 1.02 + 1e6;
  if (free < needed)
    throw Error(Exit::io, cat(folder, ": a checkpoint needs ", int64_t(needed), " bytes, ", int64_t(free),
                              " are free; free space, or lower checkpoint.keep_last"));
}

std::string make_temporary_folder(const std::string& folder, int64_t step, int64_t bytes) {
  create_folders(folder);
  check_space(folder, bytes);
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  const std::string path =
      inside(folder, cat(step_name(step), ".tmp-", int64_t(::getpid()), "-", int64_t(now)));
  if (::mkdir(path.c_str(), 0755) != 0)
    throw Error(Exit::io, cat(path, ": cannot create: ", system_reason()));
  reached("folder made");
  return path;
}

/// A box's values, piece by piece, on the host.
class BoxReader {
 public:
  explicit BoxReader(const Box& box) : box_(box) {
    if (box.fill) {
      filled_.resize(size_t(box.local.numel()));
      box.fill(filled_.data());
    }
  }
  /// All of it where the host can read it as it lies.
  std::vector<BoxPiece> pieces() const {
    return pieces_of_box(shape_of(box_.local),
                         box_.accelerator ? PieceMemory::kElements : box_.local.numel());
  }
  /// Pieces are asked for in order.
  const float* next(const BoxPiece& piece, PieceMemory* staging) {
    const int64_t n = piece.elements(), first = std::exchange(at_, at_ + n);
    if (!box_.accelerator) return (box_.fill ? filled_.data() : box_.local.ptr<float>()) + first;
    const Context ctx = transfer_context(box_.accelerator);
    Tensor there = make_tensor(box_.local.address(first), DType::f32, {n}, Device::cuda);
    copy(ctx, there, make_tensor(staging->data(), {n}));
    synchronize(ctx);
    return staging->data();
  }

 private:
  const Box& box_;
  std::vector<float> filled_;
  int64_t at_ = 0;
};

RankReport write_rank_file(const std::string& temporary, int rank, const std::vector<Box>& boxes) {
  RankReport report;
  char name[32];
  std::snprintf(name, sizeof name, "rank-%05d.h5", rank);
  report.file.name = name;
  const std::string path = inside(temporary, name);
  std::optional<TensorFileWriter> writer;
  std::optional<PieceMemory> staging;
  for (const Box& box : boxes) {
    JAMBALAYA_CHECK(box.local.dtype == DType::f32 && box.local.packed(), box.name, " ", box.local.describe());
    if (box.local.numel() == 0) continue;
    if (!writer) writer.emplace(path);
    if (box.accelerator && !staging) staging.emplace(box.accelerator);
    RankReport::Entry entry{box.name, box.global_shape, {}};
    entry.box.offset = box.offset;
    entry.box.shape = shape_of(box.local);
    entry.box.dataset = box.name + "@";
    for (size_t d = 0; d < box.offset.size(); d++) entry.box.dataset += cat(d ? "," : "", box.offset[d]);
    BoxReader values(box);
    Xxh3 hash;
    writer->write(entry.box.dataset, box.name, box.global_shape, box.offset, entry.box.shape, values.pieces(),
                  [&](const BoxPiece& piece) {
                    const float* next = values.next(piece, staging ? &*staging : nullptr);
                    hash.add(next, size_t(piece.elements()) * sizeof(float));
                    return next;
                  });
    entry.box.hash = hash.digest();
    report.entries.push_back(std::move(entry));
  }
  if (writer) {
    writer->close();
    report.file.hash = xxh3_of_file(path, report.file.bytes);
  }
  reached("rank file written");
  return report;
}

RankReport try_to_write(const std::string& temporary, int rank, const std::vector<Box>& boxes,
                        const std::function<void()>& confirm) {
  Exit exit = Exit::io;
  std::string what;
  try {
    RankReport report = write_rank_file(temporary, rank, boxes);
    if (confirm) confirm();
    return report;
  } catch (const Error& e) {
    exit = e.exit(), what = e.what();
  } catch (const std::exception& e) {
    what = e.what();
  }
  RankReport failed;
  failed.error = cat("rank ", rank, ": ", printable(what, 2000));
  failed.exit = exit;
  failed.file.name = "none";
  return failed;
}

/// The ranks' reports as one table; throws every rank's failure when there is one, with the first one's code.
CheckpointInfo assemble(const std::vector<std::string>& texts) {
  CheckpointInfo info;
  info.world_size = int64_t(texts.size());
  std::map<std::string, CheckpointInfo::Stored> tensors;
  std::string errors;
  Exit exit = Exit::io;
  for (const std::string& text : texts) {
    RankReport report = parse_report(text);
    if (!report.error.empty() && errors.empty()) exit = report.exit;
    if (!report.error.empty()) errors += cat(errors.empty() ? "" : "\n", report.error);
    if (report.entries.empty()) continue;
    for (RankReport::Entry& entry : report.entries) {
      CheckpointInfo::Stored& tensor = tensors[entry.name];
      if (tensor.boxes.empty()) tensor = {entry.name, entry.global_shape, {}};
      if (tensor.global_shape != entry.global_shape)
        throw Error(Exit::failed, cat("tensor ", entry.name, ": ranks disagree on its shape"));
      entry.box.file = int(info.files.size());
      tensor.boxes.push_back(std::move(entry.box));
    }
    info.files.push_back(std::move(report.file));
  }
  if (!errors.empty()) throw Error(exit, errors);
  for (auto& [name, tensor] : tensors) {
    if (std::string problem = tiling_problem(tensor); !problem.empty())
      throw Error(Exit::failed, cat("tensor ", name, ": ", problem));
    info.tensors.push_back(std::move(tensor));
  }
  return info;
}

void add_text_file(const std::string& folder, const char* name, const std::string& content,
                   CheckpointInfo& info) {
  if (content.empty()) return;
  write_new_file(inside(folder, name), content);
  info.files.push_back({name, int64_t(content.size()), xxh3_of_bytes(content.data(), content.size())});
}

/// Gives the folder its name. One of the same step is exchanged for it in one system call, where the file
/// system can.
void publish(const std::string& temporary, const std::string& path) {
  if (!fs::exists(path)) {
    rename_path(temporary, path);
  } else if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) != 0) {
    if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP)
      throw Error(Exit::io, cat(path, ": cannot be replaced: ", system_reason()));
    const std::string aside = temporary + ".old";
    rename_path(path, aside);
    rename_path(temporary, path);
    sync_path(parent_folder(path));
    fs::remove_all(aside);
  }
  sync_path(parent_folder(path));
  reached("renamed");
  fs::remove_all(temporary);  // the one that was replaced
}

}  // namespace

void observe_saves(SaveObserver new_observer) { observer = new_observer; }

std::string save_checkpoint(Communicator& world, const std::string& folder, const std::vector<Box>& boxes,
                            const TrainState& state, const ModelConfig& model, bool weights_only,
                            const std::function<void()>& confirm) {
  int64_t bytes = 0;
  for (const Box& box : boxes) bytes += box.local.bytes();
  world.all_reduce(make_tensor(&bytes, {1}));
  std::string temporary;
  on_root(world, [&] { temporary = make_temporary_folder(folder, state.step, bytes); });
  broadcast_string(world, temporary);
  // Rank 0 goes on when all have told how their writing went, so that it may remove the folder.
  const std::vector<std::string> reports =
      texts_on_root(world, report_text(try_to_write(temporary, world.rank(), boxes, confirm)));
  const std::string path = inside(folder, step_name(state.step));
  on_root(world, [&] {
    try {
      CheckpointInfo info = assemble(reports);
      reached("ranks agree");
      info.state = state;
      info.model = model;
      info.weights_only = weights_only;
      add_text_file(temporary, config_file_name, state.config_yaml, info);
      add_text_file(temporary, tokenizer_file_name, state.tokenizer_json, info);
      write_new_file(inside(temporary, manifest_name), manifest_text(info));
      sync_path(temporary);
      reached("manifest written");
      publish(temporary, path);
      replace_file(inside(folder, "latest"), fs::path(path).filename().string() + "\n");
      reached("published");
    } catch (...) {
      std::error_code ignored;
      fs::remove_all(temporary, ignored);
      throw;
    }
  });
  return path;
}

}  // namespace jambalaya
