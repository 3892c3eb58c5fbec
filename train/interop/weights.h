// Weights on their way from one form to another, a tensor at a time: a model larger than the memory of the
// machine at hand can still be exported and imported.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "kernels/arena.h"
#include "train/checkpoint/checkpoint.h"
#include "train/interop/huggingface.h"

namespace jambalaya {

/// Where an export takes its weights from.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual const ModelConfig& config() const = 0;
  /// Elements [first, first + count) of `part`, row-major. The writer asks for one part after another, each
  /// from its start to its end.
  virtual void read(const HfTensor& part, int64_t first, int64_t count, float* out) = 0;
};

/// Weights in memory, whole.
class ParameterWeights : public WeightSource {
 public:
  explicit ParameterWeights(const Parameters& parameters) : parameters_(parameters) {}
  const ModelConfig& config() const override { return parameters_.config(); }
  void read(const HfTensor& part, int64_t first, int64_t count, float* out) override;

 private:
  const Parameters& parameters_;
};

/// The weights of a checkpoint, whatever layout wrote it. Holds one part at a time, in an arena that has no
/// room for more than the largest one.
class CheckpointWeights : public WeightSource {
 public:
  /// `info` must outlive this. Error(checkpoint) when a tensor of its model is missing or of another shape.
  /// `largest_part`: elements of the largest part that will be asked for.
  CheckpointWeights(const CheckpointInfo& info, int64_t largest_part);
  const ModelConfig& config() const override { return info_.model; }
  void read(const HfTensor& part, int64_t first, int64_t count, float* out) override;
  const Arena& memory() const { return memory_; }

 private:
  const CheckpointInfo& info_;
  std::vector<ParameterRow> table_;
  Arena memory_;
  Arena::Mark start_;
  std::string held_;  ///< name of the part in memory
  const float* values_ = nullptr;
};

/// The parts in which a model is exported in this format: single matrices under Hugging Face's names, or the
/// rows of the table under ours.
std::vector<HfTensor> export_parts(const ModelConfig& config, ExportFormat format);
/// Elements of the largest of them.
int64_t largest_part(const std::vector<HfTensor>& parts);

void export_weights(const std::string& folder, WeightSource& weights, const ExportOptions& options,
                    bool overwrite);

/// The weights of a folder (Hugging Face's layout in its three namings, or native), a row of the table at a
/// time. The constructor checks that the files hold exactly the model's tensors, by name and shape:
/// Error(bad_input) names the tensor.
class FolderWeights {
 public:
  FolderWeights(const std::string& folder, const ModelConfig& config);
  ~FolderWeights();
  const std::vector<ParameterRow>& table() const { return table_; }
  /// All elements of a row. Error(bad_input) when a value is not finite.
  void read(int row, float* out) const;

 private:
  struct Files;
  std::vector<ParameterRow> table_;
  std::unique_ptr<Files> files_;
};

}  // namespace jambalaya
