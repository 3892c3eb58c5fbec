#include "train/run/banner.h"

#include "parallel/hosts.h"
#include "train/run/log.h"
#include "train/run/memory_check.h"

namespace jambalaya {

void tell_start(Runtime& runtime, const Config& config, int64_t training_tokens, int64_t rows_per_step) {
  const ParameterCount n = count_parameters(config.model);
  const std::string notation = notation_of(config.model);
  Mesh& mesh = runtime.mesh();
  const int ranks = mesh.world().size();
  log_info(cat("model ", notation.empty() ? "with an irregular pattern" : notation, ": ", n.total,
               " parameters, ", n.active, " active a token, hidden ", config.model.hidden_size,
               ", vocabulary ", config.model.vocab_size));
  log_info(cat("ranks ", ranks, " x ", runtime.threads(), " threads, ", runtime.context().ops->name(), ", ",
               config.train.precision == Precision::bf16 ? "bf16 with fp32 masters" : "fp32"));
  log_info(cat("device ", runtime.device_text()));
  std::vector<std::string> hosts;
  for (int r = 0; r < ranks; r++) hosts.push_back(mesh.host_of(r));
  log_info(cat("layout ", describe_fully(mesh.layout()), "; ",
               largest_tensor_memory(config.model, config.train.precision, mesh.layout()) >> 20,
               " MiB of weights, gradients and moments a rank; ", describe_hosts(hosts)));
  log_info(cat("data ", training_tokens, " training tokens, ", rows_per_step, " rows of ",
               config.data.sequence_length, " tokens a step, ", config.train.steps, " steps; run folder ",
               config.run.folder));
}

}  // namespace jambalaya
