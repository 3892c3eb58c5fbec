// Times a whole training step of a hybrid with experts, or checks that steps repeat.
//
//   step_benchmark [--device cuda|cpu] [--json FILE]
//     1.1 billion parameters, 8 documents of 4096 tokens a step.
//   step_benchmark --check [--device cuda|cpu] [--json FILE]
//     A small model in fp32 and bf16: 20 steps on the device twice (the same bits), and beside them the CPU's
//     (losses). Ends with 1 when they differ, or when a loss is no number.
//
// A step is forward, backward, gradient norm, clipping and AdamW, and the host reads loss and norm, as in
// training. Model FLOP utilisation: three times the forward's FLOPs (model/flops.h: active experts, visible
// attention) over the time of a step and the rate of a large dense product measured here; also over 989
// TFLOP/s, the data sheet's figure for the H100 and H200.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <thread>

#include "kernels/json_text.h"
#include "model/flops.h"
#include "scripts/benchmarks/losses.h"
#include "scripts/benchmarks/trainee.h"

namespace jambalaya::bench {
namespace {

/// About 1.1 billion parameters, 8/1:7/2/8/2: one layer of attention, seven of Mamba, experts every second.
ModelConfig large() {
  ModelConfig c;
  c.hidden_size = 2048, c.intermediate_size = 2816;
  c.num_attention_heads = 16, c.num_key_value_heads = 4;
  c.num_hidden_layers = 8, c.num_experts = 8;
  return c;
}
ModelConfig small() {
  ModelConfig c;
  c.vocab_size = 512, c.hidden_size = 128, c.intermediate_size = 256;
  c.num_attention_heads = 4, c.num_key_value_heads = 2;
  c.num_hidden_layers = 4, c.attn_layer_period = 4, c.attn_layer_offset = 2, c.num_experts = 4;
  return c;
}

std::string time_steps(BenchDevice& device) {
  const ModelConfig config = large();
  const std::vector<int64_t> lengths(8, 4096);
  const double tokens = 8 * 4096;
  const double peak = device.product_flops(DType::bf16, device.properties() ? 8192 : 1024),
               flops = 3 * forward_flops(config, lengths).total();
  Trainee model(device, config, Precision::bf16);
  std::printf("%s: %.2f billion parameters, %.0f tokens and %.1f TFLOP a step\n", device.name().c_str(),
              double(model.parameter_count()) / 1e9, tokens, flops / 1e12);
  const int steps = 10;
  Trainee::Report first, last;
  for (int64_t step = 0; step < 3; step++) first = model.step(lengths, step);
  const auto start = std::chrono::steady_clock::now();
  for (int64_t step = 3; step < 3 + steps; step++) last = model.step(lengths, step);
  synchronize(device.context());  // the last update
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / steps;
  if (!std::isfinite(last.loss))
    throw Error(Exit::failed, cat("step_benchmark: the loss is ", last.loss, " after 13 steps"));
  std::printf(
      "step %.1f ms, %.0f tokens/s, %.1f TFLOP/s: %.1f %% of the measured product rate (%.0f TFLOP/s), %.1f "
      "%% of 989; "
      "loss %.3f to %.3f\n",
      seconds * 1e3, tokens / seconds, flops / seconds / 1e12, 100 * flops / seconds / peak, peak / 1e12,
      100 * flops / seconds / 989e12, first.loss, last.loss);
  return cat(
      "\"parameters\": ", model.parameter_count(), ", \"tokens\": ", tokens, ", \"flops\": ", flops,
      ", \"seconds\": ", seconds, ", \"tokens_per_second\": ", tokens / seconds,
      ", \"utilisation_of_product_rate\": ", flops / seconds / peak,
      ", \"utilisation_of_989_tflops\": ", flops / seconds / 989e12, ", \"loss_first\": ", first.loss,
      ", \"loss_last\": ", last.loss, ", \"gradient_norm_last\": ", last.gradient_norm,
      ", \"step\": \"forward, backward, gradient norm, clipping, AdamW; loss and norm read by the host\"");
}

struct Losses {
  std::vector<double> losses;
  uint64_t fingerprint;
};
Losses train(BenchDevice& device, Precision precision) {
  Trainee model(device, small(), precision);
  Losses r;
  for (int64_t step = 0; step < 20; step++) {
    r.losses.push_back(model.step({100, 1, 37, 200}, step).loss);
  }
  r.fingerprint = model.fingerprint();
  return r;
}

/// True when all is as it should be.
bool check_steps(BenchDevice& device, int threads, std::string& json) {
  BenchDevice cpu("cpu", threads);
  bool good = true;
  for (Precision precision : {Precision::f32, Precision::bf16}) {
    const Losses one = train(device, precision), two = train(device, precision),
                 reference = train(cpu, precision);
    const double apart = largest_relative_difference(one.losses, reference.losses);
    const bool same = one.fingerprint == two.fingerprint;
    const double bound = precision == Precision::f32 ? 1e-3 : 2e-2;
    const bool close = apart < bound;  // not where a loss is no number
    const char* name = precision == Precision::f32 ? "fp32" : "bf16";
    std::printf(
        "%s: 20 steps, loss %.4f to %.4f; twice on the device: %s bits; largest relative difference from the "
        "CPU's "
        "losses %.2g (bound %.2g)%s\n",
        name, one.losses.front(), one.losses.back(), same ? "the same" : "DIFFERENT", apart, bound,
        close ? "" : ": TOO FAR");
    json += cat(json.empty() ? "" : ", ", "\"", name, " same bits\": ", same ? "true" : "false", ", \"", name,
                " loss difference\": ", std::isfinite(apart) ? cat(apart) : "null");
    good = good && same && close;
  }
  return good;
}

int run(int argc, char** argv) {
  std::string device_name = "cuda", path;
  bool check = false;
  for (int i = 1; i < argc; i++) {
    const std::string key = argv[i];
    if (key == "--check")
      check = true;
    else if (key == "--device" && i + 1 < argc)
      device_name = argv[++i];
    else if (key == "--json" && i + 1 < argc)
      path = argv[++i];
    else
      throw Error(Exit::usage,
                  cat("step_benchmark: unknown or incomplete option ", key, " (--device, --check, --json)"));
  }
  const int threads = int(std::thread::hardware_concurrency());
  BenchDevice device(device_name, threads);
  std::string json;
  bool good = true;
  if (check)
    good = check_steps(device, threads, json);
  else
    json = time_steps(device);
  if (!path.empty()) {
    std::ofstream out(path);
    out << "{\"device\": " << json_quoted(device.name()) << ", " << json << "}\n";
    out.close();
    if (!out) throw Error(Exit::io, cat("cannot write ", path));
  }
  return good ? 0 : 1;
}

}  // namespace
}  // namespace jambalaya::bench

int main(int argc, char** argv) {
  try {
    return jambalaya::bench::run(argc, argv);
  } catch (const jambalaya::Error& e) {
    std::cerr << e.what() << "\n";
    return int(e.exit());
  }
}
