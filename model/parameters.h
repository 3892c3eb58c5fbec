// The tensors of a model on one rank: what the model reads, and the fp32 masters and gradients that the rank
// owns. Without sharding both are the same memory.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/context.h"
#include "kernels/tensor.h"
#include "model/parts.h"

namespace jambalaya {

/// Which way the model goes through its units: what will be needed next.
enum class Travel : uint8_t { forward, backward };

/// Brings a unit's tensors to where the model reads them, in sharded runs (see ParameterSync).
class UnitLender {
 public:
  virtual ~UnitLender() = default;
  virtual void borrow(int unit, Travel travel) = 0;
  virtual void give_back(int unit, Travel travel) = 0;
};

/// Where the whole local rows of a part lie just now; null: nowhere.
struct PartMemory {
  float* value = nullptr;
  bf16* compute = nullptr;
  float* gradient = nullptr;
};

class Parameters {
 public:
  /// Tensors of the rank that stands at `ranks`. Units are numbered as layers are, from 1; unit 0 is the
  /// embedding, the last one final norm and head. All tensors lie in the memory of `accelerator`, or of the
  /// host where it is null; whatever else a model needs (Jamba, ParameterSync, ...) follows them there.
  Parameters(const ModelConfig& config, Precision precision, bool with_gradients,
             const PlacementRanks& ranks = {}, Accelerator* accelerator = nullptr);
  ~Parameters();

  const ModelConfig& config() const { return config_; }
  Precision precision() const { return precision_; }
  const PlacementRanks& ranks() const { return ranks_; }
  Accelerator* accelerator() const { return accelerator_; }
  Device device() const { return accelerator_ ? Device::cuda : Device::cpu; }
  const std::vector<ParameterRow>& table() const { return table_; }
  /// Index of the row of that name; throws std::logic_error when there is none.
  int index(const std::string& name) const;
  bool has(const std::string& name) const;

  // ---- what the model reads and writes: whole local rows (local_shape) ----
  // In sharded runs a row may be used between borrow and give_back of its unit alone.
  Tensor value(int row) const;     ///< f32
  Tensor compute(int row) const;   ///< the operand of products: a bf16 copy, or the value itself
  Tensor gradient(int row) const;  ///< f32

  void borrow(int unit, Travel travel) {
    if (lender_) lender_->borrow(unit, travel);
  }
  /// After a backward: the gradients of the unit are complete as far as this use goes.
  void give_back(int unit, Travel travel) {
    if (lender_) lender_->give_back(unit, travel);
  }

  // ---- what the rank owns: starting values, optimizer, norm, checkpoints ----
  const std::vector<Part>& parts() const { return plan_.parts; }
  const std::vector<OwnedSlice>& owned() const { return plan_.slices; }
  int64_t owned_size() const { return plan_.owned_size; }
  /// Flat f32 [owned_size], padding (always zero) included.
  Tensor owned_master() const { return masters_; }
  Tensor owned_gradient() const;
  /// The bf16 copy of a part's owned range where the optimizer may write it as it goes: a part that is not
  /// sharded. Empty otherwise.
  Tensor owned_compute(int part) const;

  // ---- without sharding: owned is whole ----
  Tensor master(int row) const;  ///< f32, local shape
  int64_t flat_size() const { return plan_.flat_size; }
  int64_t offset(int row) const { return plan_.offsets[size_t(row)]; }
  Tensor flat_master() const { return masters_; }
  Tensor flat_gradient() const { return owned_gradient(); }

  /// Starts every owned element from (seed, name, global element index): the same values under every layout
  /// and on every device. On a device the values are enqueued on its compute stream.
  void initialize(uint64_t seed, ThreadPool* pool = nullptr);
  /// Rewrites compute copies of unsharded parts from the masters (after loading). Sharded ones are rewritten
  /// when they are gathered.
  void refresh_compute(Context& ctx);
  /// Zeroes all gradients but those of borrowed units.
  void zero_gradients(Context& ctx);

  // ---- for ParameterSync ----
  void set_lender(UnitLender* lender) { lender_ = lender; }
  PartMemory memory(int part) const { return memory_[size_t(part)]; }
  void place(int part, const PartMemory& memory) { memory_[size_t(part)] = memory; }
  bool with_gradients() const { return bool(gradients_); }
  const Arena& parameter_arena() const { return *parameter_arena_; }
  const Arena* gradient_arena() const { return gradient_arena_.get(); }

 private:
  void initialize_slice(const OwnedSlice& slice, uint64_t seed, int64_t begin, int64_t end, float* out) const;
  Tensor shaped(int row, void* part_memory, DType dtype) const;
  void place_resident();

  ModelConfig config_;
  Precision precision_;
  PlacementRanks ranks_;
  Accelerator* accelerator_;
  std::vector<ParameterRow> table_;
  std::vector<std::vector<int64_t>> shapes_;  ///< local, by row
  PartPlan plan_;
  std::unique_ptr<Arena> parameter_arena_, gradient_arena_;
  Tensor masters_, gradients_;      ///< f32 [owned_size]
  Tensor whole_gradients_;          ///< f32: of parts that are sharded but resident
  std::vector<PartMemory> memory_;  ///< by part
  UnitLender* lender_ = nullptr;
};

}  // namespace jambalaya
