#include "train/run/memory_check.h"

#include <fstream>
#include <string>

namespace jambalaya {

namespace {

/// MemAvailable of /proc/meminfo in bytes; -1 where it cannot be read.
int64_t available_bytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string key; file >> key;) {
    int64_t kilobytes = 0;
    if (key == "MemAvailable:" && file >> kilobytes) return kilobytes * 1024;
    file.ignore(256, '\n');
  }
  return -1;
}

}  // namespace

int64_t tensor_bytes(const ModelConfig& model, Precision precision, bool training) {
  // Master, gradient and two moments in fp32; with bf16 a compute copy.
  return count_parameters(model).total * ((training ? 16 : 4) + (precision == Precision::bf16 ? 2 : 0));
}

void check_memory(const ModelConfig& model, Precision precision, bool training, int ranks) {
  const int64_t need = tensor_bytes(model, precision, training) * ranks, available = available_bytes();
  if (available < 0 || need <= available) return;
  throw Error(Exit::usage,
              cat("the model has ", count_parameters(model).total, " parameters: ", ranks,
                  ranks == 1 ? " rank" : " ranks", " on this host would need ", need >> 20, " MiB for ",
                  training ? "weights, gradients and moments" : "its weights", ", ", available >> 20,
                  " MiB are available; take a smaller model or a machine with more memory"));
}

}  // namespace jambalaya
