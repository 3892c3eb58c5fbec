// jambalaya train
#include "train/run/trainer.h"

#include "train/commands/commands.h"
#include "train/commands/help_text.h"
#include "train/config.h"
#include "train/run/agreement.h"
#include "train/run/log.h"
#include "train/run/memory_check.h"
#include "train/run/signals.h"

namespace jambalaya {

int run_train(const TrainOptions& o) {
  std::vector<std::string> set = o.set;
  if (!o.device.empty()) set.push_back("run.device=" + o.device);
  Config config = load_config(o.config, set);
  if (config.data.folder.empty())
    throw Error(
        Exit::usage,
        "data.folder is not set: encode text with 'jambalaya data encode' and name its --output folder");
  if (!o.trace.empty()) config.log.trace = o.trace;
  if (o.profile) config.log.profile = true;
  if (log_settings().level == LogLevel::info)
    log_settings().level = log_level_of(config.log.level);  // -q and -v win
  watch_signals();
  // Also before the layout is looked at, which may be another one on another rank.
  std::vector<Fact> facts = {{"the program's version", version_text()}, {"--resume", o.resume}};
  for (Fact& fact : config_facts(config)) facts.push_back(std::move(fact));
  Runtime runtime(config.parallel, config.model, config.run,
                  [&](Communicator& world) { check_agreement(world, facts); });
  check_memory(config.model, config.train.precision, true, runtime);
  Exit exit = Trainer(runtime, config, o.resume).run();
  return int(exit);
}

}  // namespace jambalaya
