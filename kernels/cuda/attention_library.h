// Attention by the vendor's library, where there is one and it takes the call: cuDNN (attention_cudnn.cpp,
// the only file that sees its headers). Without it (attention_library_none.cpp) our own kernels do
// everything.
#pragma once
#include <memory>
#include <string>

#include "kernels/attention_segments.h"

namespace jambalaya::cuda {

class AttentionLibrary {
 public:
  virtual ~AttentionLibrary() = default;
  /// Enqueues the call and returns true, or does nothing and returns false: keys in a cache or block, f32,
  /// head sizes that are no multiple of 8, documents of very unlike lengths, no library on this machine. A
  /// refusal that only the library itself could tell is remembered and told by status().
  virtual bool forward(Context& ctx, const AttentionForward& op, const attention::Heads& heads) = 0;
  /// "cuDNN 9.19.0", or "own kernels (libcudnn.so.9: cannot open ...)". From any thread.
  virtual std::string status() const = 0;
};
/// JAMBALAYA_ATTENTION=own takes no library; =cudnn throws Error(usage) where it is not there or refuses what
/// it should take.
std::unique_ptr<AttentionLibrary> make_attention_library(const AcceleratorProperties& properties);

/// One call of the library, as far as its plan depends on it. All sizes are in elements.
struct AttentionPlanKey {
  int64_t documents, longest;  ///< rounded up to powers of two: few plans serve all batches
  int64_t heads, key_heads, head_size;
  int64_t q_stride, k_stride, v_stride, o_stride;  ///< from token to token
  bool statistics;                                 ///< logsumexp is wanted
  float scale;
  auto operator<=>(const AttentionPlanKey&) const = default;
};
/// Whether the library has a kernel for the plan on a device of these properties (cuDNN's JSON), which need
/// not be there. Empty: it has; else its reason. Throws Error(failed) when there is no library.
std::string why_unsupported(const AttentionPlanKey& key, const std::string& device_json, int sm_version);

/// lse [H, T] = statistics [T, H] (attention_merge.cu).
void transpose_statistics(const Context& ctx, const Tensor& statistics, const Tensor& lse);

}  // namespace jambalaya::cuda
