// Commands whose implementation is not in this tree; a strong definition replaces each.
#include "kernels/error.h"
#include "train/commands/commands.h"

namespace jambalaya {

__attribute__((weak)) int run_tokenizer_train(const TokenizerTrainOptions&) {
  throw std::logic_error("the command tokenizer train is not in this build");
}
__attribute__((weak)) int run_tokenizer_encode(const TokenizerEncodeOptions&) {
  throw std::logic_error("the command tokenizer encode is not in this build");
}
__attribute__((weak)) int run_data_encode(const DataEncodeOptions&) {
  throw std::logic_error("the command data encode is not in this build");
}
__attribute__((weak)) int run_data_inspect(const DataInspectOptions&) {
  throw std::logic_error("the command data inspect is not in this build");
}
__attribute__((weak)) int run_train(const TrainOptions&) {
  throw std::logic_error("the command train is not in this build");
}
__attribute__((weak)) int run_evaluate(const EvaluateOptions&) {
  throw std::logic_error("the command evaluate is not in this build");
}
__attribute__((weak)) int run_generate(const GenerateOptions&) {
  throw std::logic_error("the command generate is not in this build");
}
__attribute__((weak)) int run_compare(const CompareOptions&) {
  throw std::logic_error("the command compare is not in this build");
}

}  // namespace jambalaya
