// Preloaded (LD_PRELOAD) into a program under test: a disk that is slow, or full.
//   SLOW_DISK_MS=N      every fsync and rename waits N ms before and after, so that a kill or a signal at a
//   random moment
//                       often falls between the steps of a save
//   FULL_DISK_FOLDER=F  FULL_DISK_FROM=N: the N-th write to a file below F, counted from 1, and all after it
//   fail with
//                       "No space left on device"; FULL_DISK_RANK=R: on that rank of the job alone
#include <dlfcn.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

long number(const char* name, long otherwise) {
  const char* value = std::getenv(name);
  return value ? std::atol(value) : otherwise;
}

void wait() {
  static const long ms = number("SLOW_DISK_MS", 0);
  if (ms > 0) usleep(useconds_t(ms * 1000));
}

bool below_the_folder(int fd) {
  static const char* const folder = std::getenv("FULL_DISK_FOLDER");
  static const bool this_rank =
      number("FULL_DISK_RANK", -1) < 0 || number("FULL_DISK_RANK", -1) == number("OMPI_COMM_WORLD_RANK", 0);
  if (!folder || !this_rank) return false;
  char link[64], path[4096];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t n = readlink(link, path, sizeof path);
  return n >= ssize_t(std::strlen(folder)) && std::strncmp(path, folder, std::strlen(folder)) == 0;
}

bool full(int fd) {
  static const long from = number("FULL_DISK_FROM", 1);
  static std::atomic<long> writes{0};
  return below_the_folder(fd) && ++writes >= from;
}

template <class F>
F* next(const char* name) {
  return reinterpret_cast<F*>(dlsym(RTLD_NEXT, name));
}

template <class F, class... Arguments>
int slowly(F* original, Arguments... arguments) {
  wait();
  const int result = original(arguments...);
  wait();
  return result;
}

template <class F, class... Arguments>
ssize_t unless_full(F* original, int fd, Arguments... arguments) {
  if (!full(fd)) return original(fd, arguments...);
  errno = ENOSPC;
  return -1;
}

}  // namespace

extern "C" {

int fsync(int fd) {
  static auto* const original = next<int(int)>("fsync");
  return slowly(original, fd);
}

int rename(const char* from, const char* to) noexcept {
  static auto* const original = next<int(const char*, const char*)>("rename");
  return slowly(original, from, to);
}

int renameat2(int a, const char* from, int b, const char* to, unsigned flags) noexcept {
  static auto* const original = next<int(int, const char*, int, const char*, unsigned)>("renameat2");
  return slowly(original, a, from, b, to, flags);
}

ssize_t write(int fd, const void* data, size_t bytes) {
  static auto* const original = next<ssize_t(int, const void*, size_t)>("write");
  return unless_full(original, fd, data, bytes);
}

ssize_t pwrite(int fd, const void* data, size_t bytes, off_t at) {
  static auto* const original = next<ssize_t(int, const void*, size_t, off_t)>("pwrite");
  return unless_full(original, fd, data, bytes, at);
}

ssize_t pwrite64(int fd, const void* data, size_t bytes, off64_t at) {
  static auto* const original = next<ssize_t(int, const void*, size_t, off64_t)>("pwrite64");
  return unless_full(original, fd, data, bytes, at);
}
}
