// Event files for TensorBoard, written without its library: records of protocol buffers, of which a run needs
// four kinds of field. Layout: tensorflow/core/lib/io/record_writer.h and core/util/event.proto of
// TensorFlow.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "train/files.h"
#include "train/run/report.h"

namespace jambalaya {

/// A tag ("train/loss") and its value; TensorBoard keeps single precision.
using Scalar = std::pair<std::string, float>;

/// What a step has to show, under the tags that people search for.
std::vector<Scalar> scalars_of(const StepReport& report);

class EventFile {
 public:
  /// A new file in `folder` (created when missing), named so that readers, who go by name, take it after
  /// those that are there. It begins by taking back what earlier files say of `first_step` and later steps,
  /// which a run that was continued from a checkpoint does again. Error(io).
  EventFile(const std::string& folder, int64_t first_step);
  /// One event; it has left the process when this returns. Error(io).
  void write(int64_t step, const std::vector<Scalar>& scalars);
  const std::string& path() const { return path_; }

 private:
  void append(const std::string& event);
  std::string path_;
  FileDescriptor file_;
};

}  // namespace jambalaya
