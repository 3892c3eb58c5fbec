// Times every kernel beside what the device cannot do faster, and writes a table and JSON.
//
//   kernel_benchmark [--device cuda|cpu] [--tokens 32768] [--length 4096] [--only PART_OF_NAME] [--json FILE]
//                    [--threads N]
//
// The floor of a call is the largest of: its bytes at the speed of a copy, its FLOPs at the speed of a large
// dense product (both measured here, just before), and on a GPU its special functions and instructions at
// what the multiprocessors can issue.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <thread>

#include "kernels/json_text.h"
#include "scripts/benchmarks/kernel_cases.h"

namespace jambalaya::bench {
namespace {

struct Options {
  std::string device = "cuda", only, json;
  int64_t tokens = 32768, length = 4096;
  int threads = int(std::thread::hardware_concurrency());
};

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; i++) {
    const std::string key = argv[i];
    if (i + 1 == argc) throw Error(Exit::usage, cat("kernel_benchmark: ", key, " needs a value"));
    const char* value = argv[++i];
    if (key == "--device")
      o.device = value;
    else if (key == "--only")
      o.only = value;
    else if (key == "--json")
      o.json = value;
    else if (key == "--tokens")
      o.tokens = std::atoll(value);
    else if (key == "--length")
      o.length = std::atoll(value);
    else if (key == "--threads")
      o.threads = std::atoi(value);
    else
      throw Error(Exit::usage, cat("kernel_benchmark: unknown option ", key,
                                   " (--device, --tokens, --length, --only, --json, --threads)"));
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

Rates measure(BenchDevice& device) {
  Rates r{device.copy_bytes_per_second(), device.product_flops(DType::bf16), 0, 0};
  if (const AcceleratorProperties* p = device.properties()) {
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

int run(const Options& o) {
  BenchDevice device(o.device, o.threads);
  const Rates rates = measure(device);
  std::printf("%s, ops: %s\ncopy %.0f GB/s, bf16 product %.1f TFLOP/s\n\n", device.name().c_str(),
              device.ops().name(), rates.bytes / 1e9, rates.flops / 1e12);
  std::printf("%-36s %-34s %10s %10s %7s  %s\n", "kernel", "shape", "ms", "floor ms", "ratio", "binds");
  std::string rows;
  for (const KernelCase& c : kernel_cases(o.tokens, o.length)) {
    if (c.name.find(o.only) == std::string::npos) continue;
    ArenaScope scope(device.memory());
    const double seconds = device.seconds_of(c.prepare(device));
    const Floor floor = floor_of(c.work, rates);
    std::printf("%-36s %-34s %10.3f %10.3f %7.2f  %s\n", c.name.c_str(), c.shape.c_str(), seconds * 1e3,
                floor.seconds * 1e3, seconds / floor.seconds, floor.binds);
    std::fflush(stdout);
    rows += cat(rows.empty() ? "" : ",\n", "    {\"kernel\": ", json_quoted(c.name),
                ", \"shape\": ", json_quoted(c.shape), ", \"seconds\": ", seconds,
                ", \"floor_seconds\": ", floor.seconds, ", \"binds\": ", json_quoted(floor.binds),
                ", \"bytes\": ", c.work.bytes, ", \"flops\": ", c.work.flops, "}");
  }
  if (o.json.empty()) return 0;
  std::ofstream out(o.json);
  out << "{\n  \"device\": " << json_quoted(device.name())
      << ",\n  \"ops\": " << json_quoted(device.ops().name())
      << ",\n  \"copy_bytes_per_second\": " << rates.bytes << ",\n  \"product_flops\": " << rates.flops
      << ",\n  \"kernels\": [\n"
      << rows << "\n  ]\n}\n";
  out.close();
  if (!out) throw Error(Exit::io, cat("cannot write ", o.json));
  return 0;
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
