// How many ranks share what, and which layouts a world of ranks and a model admit (docs/parallelism.md).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace jambalaya {

/// What ranks that see other tokens keep of parameters and optimizer state.
enum class Sharding : uint8_t {
  none,       ///< all of it
  optimizer,  ///< their range of the optimizer's state (ZeRO-1)
  full        ///< their range of everything (FSDP, ZeRO-3)
};

/// Degrees of parallelism. Ranks form data x context x tensor; the experts see the same ranks as expert-data
/// x expert x expert_tensor.
struct Layout {
  int data = 0;           ///< groups of ranks that see different rows; 0: what is left over
  int context = 1;        ///< ranks that share each sequence
  int tensor = 1;         ///< ranks that share each matrix
  int expert = 1;         ///< ranks that share the experts of a layer
  int expert_tensor = 1;  ///< ranks that share the matrices of one expert
  Sharding sharding = Sharding::none;
  int shard = 0;            ///< ranks that share one copy under `sharding`; 0: all that see other tokens
  bool sequence = true;     ///< tensor ranks also share the tokens between the matrices
  double deadline_s = 600;  ///< seconds after which a waiting collective ends the job; 0: never
};

/// What a model can be cut into. 0: it has no such layer.
struct LayoutLimits {
  int64_t heads = 0;     ///< query heads; a multiple of tensor
  int64_t kv_heads = 0;  ///< key/value heads; a multiple or a divisor of tensor
  int64_t channels = 0;  ///< of Mamba (inner width); a multiple of tensor
  int64_t experts = 0;   ///< of an expert layer; a multiple of expert
};

/// The layout with `data` filled in. Throws Error(layout) with a sentence on what does not fit and the valid
/// layouts, nearest first.
Layout check_layout(int ranks, const Layout& layout);                              ///< any model
Layout check_layout(int ranks, const Layout& layout, const LayoutLimits& limits);  ///< this model

/// All layouts (data, context, tensor, expert, expert_tensor) of this many ranks that the model admits.
std::vector<Layout> valid_layouts(int ranks);
std::vector<Layout> valid_layouts(int ranks, const LayoutLimits& limits);
std::string describe(const Layout& layout);  ///< "data=2 context=1 tensor=4 expert=1 expert_tensor=1"
/// The same with " sequence=true sharding=full shard=2" behind it; `data` is filled in.
std::string describe_fully(const Layout& layout);

/// Where a rank stands in the grid, and where the experts see it:
/// rank = tensor + t (context + c data) = expert_tensor + τ (expert + x expert_data).
struct Coordinates {
  int data = 0, context = 0, tensor = 0;
  int expert_data = 0, expert = 0, expert_tensor = 0;
};
Coordinates coordinates(const Layout& layout, int rank);

// Derived sizes; `data` is filled in.
inline int token_ranks(const Layout& l) { return l.data * l.context; }  ///< that see other tokens
inline int expert_data_ranks(const Layout& l) {                         ///< that hold the same experts
  return l.data * l.context * l.tensor / (l.expert * l.expert_tensor);
}
int dense_shard_ranks(const Layout& layout);   ///< ranks that share one copy of the dense parameters
int expert_shard_ranks(const Layout& layout);  ///< and of an expert's

}  // namespace jambalaya
