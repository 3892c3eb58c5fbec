// Times every kernel beside what the device cannot do faster, and writes a table and JSON.
//
//   kernel_benchmark [--device cuda|cpu] [--tokens 32768] [--length 4096] [--only NAMES] [--json FILE]
//                    [--threads N] [--toy]
//
// --only takes parts of names, separated by commas. --toy takes the widths of a toy model: does every case
// run? The JSON is written anew after each kernel, so that what was measured is not lost when a later one
// fails; one that fails is told and the others go on (exit code 1).
//
// The floor of a call is the largest of: its bytes at the speed of a copy, its FLOPs at the speed of a large
// dense product (both measured here, just before), and on a GPU its special functions and instructions at
// what the multiprocessors can issue.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

#include "kernels/json_text.h"
#include "scripts/benchmarks/kernel_cases.h"

namespace jambalaya::bench {
namespace {

struct Options {
  std::string device = "cuda", json;
  std::vector<std::string> only;
  int64_t tokens = 32768, length = 4096;
  int threads = int(std::thread::hardware_concurrency());
  bool toy = false;

  bool chosen(const std::string& name) const {
    return only.empty() || std::any_of(only.begin(), only.end(), [&](const std::string& part) {
             return name.find(part) != std::string::npos;
           });
  }
};

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; i++) {
    const std::string key = argv[i];
    if (key == "--toy") {
      o.toy = true;
      continue;
    }
    if (i + 1 == argc) throw Error(Exit::usage, cat("kernel_benchmark: ", key, " needs a value"));
    const char* value = argv[++i];
    if (key == "--device")
      o.device = value;
    else if (key == "--only") {
      std::istringstream parts(value);
      for (std::string part; std::getline(parts, part, ',');) o.only.push_back(part);
    } else if (key == "--json")
      o.json = value;
    else if (key == "--tokens")
      o.tokens = std::atoll(value);
    else if (key == "--length")
      o.length = std::atoll(value);
    else if (key == "--threads")
      o.threads = std::atoi(value);
    else
      throw Error(Exit::usage, cat("kernel_benchmark: unknown option ", key,
                                   " (--device, --tokens, --length, --only, --json, --threads, --toy)"));
  }
  if (o.tokens <= 0 || o.length <= 0 || o.tokens % o.length || o.threads < 1 ||
      (o.device != "cuda" && o.device != "cpu"))
    throw Error(Exit::usage,
                "kernel_benchmark: --device is cuda or cpu; --tokens is a positive multiple of --length");
  return o;
}

/// What the device reaches, per second.
struct Rates {
  double bytes, flops, special, instructions;
};

Rates measure(BenchDevice& device, bool toy) {
  const AcceleratorProperties* p = device.properties();
  Rates r{device.copy_bytes_per_second(toy ? 1
                                       : p ? 1024
                                           : 128),
          device.product_flops(DType::bf16, toy ? 64
                                            : p ? 8192
                                                : 1024),
          0, 0};
  if (p) {
    r.special = p->multiprocessors * 16.0 * p->clock_hz;
    r.instructions = p->multiprocessors * 128.0 * p->clock_hz;
  }
  return r;
}

struct Floor {
  double seconds = 0;
  const char* binds = "";
};
Floor floor_of(const Work& w, const Rates& r) {
  Floor floor;
  auto consider = [&](double amount, double rate, const char* name) {
    if (rate > 0 && amount / rate > floor.seconds) floor = {amount / rate, name};
  };
  consider(w.bytes, r.bytes, "memory");
  consider(w.flops, r.flops, "tensor");
  consider(w.special, r.special, "special functions");
  consider(w.instructions, r.instructions, "instructions");
  return floor;
}

/// The JSON file as it is after each kernel.
class Record {
 public:
  Record(const Options& options, BenchDevice& device, const Rates& rates)
      : path_(options.json), device_(device), rates_(rates) {}

  void add(const KernelCase& c, const std::string& rest) {
    rows_ += cat(rows_.empty() ? "" : ",\n", "    {\"kernel\": ", json_quoted(c.name),
                 ", \"shape\": ", json_quoted(c.shape), ", ", rest, "}");
    write();
  }

 private:
  void write() const {
    if (path_.empty()) return;
    std::ofstream out(path_);
    // Asked for now: the ops say what they use, which may change when a library refuses a call.
    out << "{\n  \"device\": " << json_quoted(device_.name())
        << ",\n  \"ops\": " << json_quoted(device_.ops().name())
        << ",\n  \"copy_bytes_per_second\": " << rates_.bytes << ",\n  \"product_flops\": " << rates_.flops
        << ",\n  \"kernels\": [\n"
        << rows_ << "\n  ]\n}\n";
    out.close();
    if (!out) throw Error(Exit::io, cat("cannot write ", path_));
  }
  std::string path_, rows_;
  BenchDevice& device_;
  Rates rates_;
};

/// Best time of a call, or the reason why there is none.
double seconds_of(const KernelCase& c, BenchDevice& device, std::string& failure) {
  try {
    ArenaScope scope(device.memory()), scratch(*device.context().scratch);
    return device.seconds_of(c.prepare(device));
  } catch (const std::exception& e) {
    failure = e.what();
    return 0;
  }
}

std::string per_second(double amount, double seconds, double unit) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", amount / seconds / unit);
  return amount > 0 ? text : "";
}

int run(const Options& o) {
  BenchDevice device(o.device, o.threads);
  const Rates rates = measure(device, o.toy);
  std::printf("%s, ops: %s\ncopy %.0f GB/s, bf16 product %.1f TFLOP/s\n\n", device.name().c_str(),
              device.ops().name(), rates.bytes / 1e9, rates.flops / 1e12);
  std::printf("%-50s %-38s %10s %10s %7s %8s %8s  %s\n", "kernel", "shape", "ms", "floor ms", "ratio", "GB/s",
              "TFLOP/s", "binds");
  Record record(o, device, rates);
  int timed = 0, failed = 0;
  for (const KernelCase& c : kernel_cases(o.toy ? Widths::toy() : Widths(), o.tokens, o.length)) {
    if (!o.chosen(c.name)) continue;
    std::string failure;
    const double seconds = seconds_of(c, device, failure);
    if (!failure.empty()) {
      failed++;
      std::printf("%-50s %-38s FAILED: %s\n", c.name.c_str(), c.shape.c_str(), failure.c_str());
      record.add(c, cat("\"failed\": ", json_quoted(failure)));
      continue;
    }
    timed++;
    const Floor floor = floor_of(c.work, rates);
    std::printf("%-50s %-38s %10.3f %10.3f %7.2f %8s %8s  %s\n", c.name.c_str(), c.shape.c_str(),
                seconds * 1e3, floor.seconds * 1e3, seconds / floor.seconds,
                per_second(c.work.bytes, seconds, 1e9).c_str(),
                per_second(c.work.flops, seconds, 1e12).c_str(), floor.binds);
    std::fflush(stdout);
    record.add(c, cat("\"seconds\": ", seconds, ", \"floor_seconds\": ", floor.seconds,
                      ", \"binds\": ", json_quoted(floor.binds), ", \"bytes\": ", c.work.bytes,
                      ", \"flops\": ", c.work.flops));
  }
  if (timed + failed == 0) throw Error(Exit::usage, "kernel_benchmark: --only names no kernel");
  if (failed) std::printf("%d of %d kernels FAILED\n", failed, timed + failed);
  return failed ? int(Exit::failed) : 0;
}

}  // namespace
}  // namespace jambalaya::bench

int main(int argc, char** argv) {
  try {
    return jambalaya::bench::run(jambalaya::bench::parse(argc, argv));
  } catch (const jambalaya::Error& e) {
    std::cerr << e.what() << "\n";
    return int(e.exit());
  }
}
