// What happened to a run and when: one JSON object a line, appended and never cut, unlike metrics.jsonl,
// which tells of the steps that count. Starts, checkpoints, rewinds and ends.
#pragma once
#include <string>

#include "train/files.h"
#include "train/json.h"

namespace jambalaya {

class Journal {
 public:
  /// Opens or creates `path`. Half a line, left by a job that was killed, is cut off. Error(io).
  explicit Journal(const std::string& path);
  /// One line: `event` ("start"), the time in seconds since 1970, and the members of `facts`. Error(io).
  void write(const std::string& event, const Json& facts);

 private:
  std::string path_;
  FileDescriptor file_;
};

/// Text up to and with its last line break: what is behind it is still being written, or was never finished.
std::string_view whole_lines(std::string_view text);

}  // namespace jambalaya
