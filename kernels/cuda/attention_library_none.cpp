// In place of attention_cudnn.cpp in builds without cuDNN's headers.
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/attention_library.h"

namespace jambalaya::cuda {
namespace {

class NoLibrary final : public AttentionLibrary {
 public:
  bool forward(Context&, const AttentionForward&, const attention::Heads&) override { return false; }
  std::string status() const override { return "own kernels (built without cuDNN)"; }
};

}  // namespace

std::unique_ptr<AttentionLibrary> make_attention_library(const AcceleratorProperties&) {
  const char* wanted = std::getenv("JAMBALAYA_ATTENTION");
  if (wanted && std::strcmp(wanted, "cudnn") == 0)
    throw Error(Exit::usage,
                "JAMBALAYA_ATTENTION=cudnn: this build has no cuDNN; set JAMBALAYA_CUDNN_FRONTEND to the "
                "folder of cudnn_frontend.h when configuring");
  return std::make_unique<NoLibrary>();
}

std::string why_unsupported(const AttentionPlanKey&, const std::string&, int) {
  throw Error(Exit::failed, "this build has no cuDNN");
}

}  // namespace jambalaya::cuda
