// jambalaya compare: this program's numbers beside recorded ones.
#include <algorithm>
#include <cstdio>

#include "train/commands/commands.h"
#include "train/config.h"
#include "train/files.h"
#include "train/interop/golden.h"
#include "train/interop/huggingface.h"
#include "train/json.h"
#include "train/run/log.h"

namespace jambalaya {

namespace {

void print(const GoldenResult& result, const std::string& folder) {
  const Measured* worst = nullptr;
  int64_t gradients = 0;
  for (const Measured& m : result.measured) {
    const bool gradient = m.what.starts_with("gradient ");
    gradients += gradient;
    if (gradient && m.passed()) {
      if (!worst || m.error > worst->error) worst = &m;
      continue;
    }
    std::printf("%-60s %-12s %10.3e  (bound %.1e)  %s\n", m.what.c_str(), m.measure.c_str(), m.error,
                m.tolerance, m.passed() ? "ok" : "TOO FAR");
  }
  if (worst)
    std::printf("%-60s %-12s %10.3e  (bound %.1e)  ok, the worst of %lld: %s\n", "gradients",
                worst->measure.c_str(), worst->error, worst->tolerance, static_cast<long long>(gradients),
                worst->what.c_str() + 9);
  std::printf("%s: %s\n", folder.c_str(), result.passed() ? "passed" : "FAILED");
}

Json as_json(const GoldenResult& result, const std::string& folder) {
  Json answer = Json::make_object();
  Json all = Json::make_array();
  for (const Measured& m : result.measured) {
    Json one = Json::make_object();
    one.set("what", m.what)
        .set("measure", m.measure)
        .set("error", json_number(m.error))
        .set("tolerance", json_number(m.tolerance))
        .set("passed", m.passed());
    all.array.push_back(std::move(one));
  }
  answer.set("folder", folder).set("passed", result.passed()).set("measured", std::move(all));
  return answer;
}

}  // namespace

int run_compare(const CompareOptions& o) {
  const std::string path = o.folder + "/config.json";
  Config config;
  config.model = model_config_from_hf(read_small_file(path, 16 << 20), path);
  if (!o.set.empty()) config = parse_config(to_yaml(config), path, o.set);
  const Precision precision = o.precision == "bf16" ? Precision::bf16 : config.train.precision;
  GoldenTolerances tolerances = GoldenTolerances::of(precision);
  if (o.tolerance > 0)
    tolerances = {o.tolerance, o.tolerance, o.tolerance, o.tolerance, o.tolerance, o.tolerance, o.tolerance};
  if (o.threads) config.run.threads = o.threads;
  config.run.device = o.device;
  Runtime runtime(config.parallel, config.model, config.run);
  log_debug(cat("device ", runtime.device_text()));
  GoldenResult result =
      compare_golden(runtime, o.folder, config.model, precision, config.train.recompute, tolerances);
  if (runtime.lead()) {
    if (o.json)
      std::puts(as_json(result, o.folder).text().c_str());
    else
      print(result, o.folder);
  }
  // 17: a result failed its validation, the meaning Megatron-LM gives this code.
  return result.passed() ? 0 : 17;
}

}  // namespace jambalaya
