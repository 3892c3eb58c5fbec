#include "train/run/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>

namespace jambalaya {

std::string_view whole_lines(std::string_view text) {
  const size_t end = text.rfind('\n');
  return text.substr(0, end == std::string_view::npos ? 0 : end + 1);
}

Journal::Journal(const std::string& path) : path_(path) {
  file_ = FileDescriptor(open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (file_.get() < 0) throw Error(Exit::io, cat(path, ": cannot be opened for writing: ", system_reason()));
  off_t end = lseek(file_.get(), 0, SEEK_END);
  const off_t size = end;
  for (char last = 0; end > 0; end--)
    if (pread(file_.get(), &last, 1, end - 1) != 1 || last == '\n') break;
  if (end != size && ftruncate(file_.get(), end) != 0)
    throw Error(Exit::io, cat(path, ": cannot be cut back: ", system_reason()));
}

void Journal::write(const std::string& event, const Json& facts) {
  Json line = Json::make_object();
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  line.set("event", event).set("time", std::chrono::duration<double>(now).count());
  for (const auto& [key, value] : facts.object) line.set(key, value);
  const std::string text = line.line() + "\n";
  write_all(file_, path_, text.data(), text.size());
}

}  // namespace jambalaya
