// Attention forward by cuDNN: its fused scaled dot-product attention, built through the cudnn-frontend
// headers. Documents are a "ragged" batch: one entry of the batch for each document, found by an offset, so
// that no padding is computed or stored. The batch and the longest length of a plan are rounded up to powers
// of two, with entries of length 0 at the end: few plans, built once each, serve all batches.
//
// cuDNN itself is opened at run time. Whatever it lacks or refuses, our own kernels do.
#include <dlfcn.h>

#include <array>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>

#include "kernels/cuda/attention_call.h"
#include "kernels/cuda/attention_library.h"
#include "kernels/transfer.h"

#include <cudnn_frontend.h>

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // declared by the headers, to be defined by their user
}

namespace jambalaya::cuda {
namespace {

namespace fe = cudnn_frontend;
using Graph = fe::graph::Graph;
using TensorOf = fe::graph::Tensor_attributes;

constexpr const char* kLibrary = "libcudnn.so.9";

/// Opens cuDNN once. Empty: it is there; else why not.
const std::string& library_problem() {
  static const std::string problem = [] {
    // The headers would otherwise try CUDA 12's run time first.
    setenv("CUDNN_FRONTEND_CUDART_LIB_NAME", cat("libcudart.so.", CUDART_VERSION / 1000).c_str(), 0);
    fe::cudnn_dlhandle = dlopen(kLibrary, RTLD_NOW | RTLD_GLOBAL);
    return std::string(fe::cudnn_dlhandle ? "" : dlerror());
  }();
  return problem;
}

std::string version() {
  const auto v = int64_t(fe::detail::get_backend_version());
  return cat("cuDNN ", v / 10000, ".", v / 100 % 100, ".", v % 100);
}

void require(fe::error_t error) {
  if (error.is_bad()) throw Error(Exit::failed, error.get_message());
}

/// Names of a graph's tensors: what execution binds memory to.
enum Id : int64_t { kQ = 1, kK, kV, kO, kStatistics, kLengths, kOffsetsOf = 100 };

TensorOf operand(Id id, int64_t batch, int64_t heads, int64_t length, int64_t size, int64_t stride) {
  return TensorOf()
      .set_uid(id)
      .set_dim({batch, heads, length, size})
      .set_stride({length * stride, size, stride, 1});
}

/// The graph of a plan, not yet built. Statistics are [T, H].
void describe(Graph& graph, const AttentionPlanKey& key) {
  const int64_t b = key.documents, s = key.longest, h = key.heads, c = key.head_size;
  graph.set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  auto offsets = [&](Id of) {
    return graph.tensor(TensorOf()
                            .set_uid(kOffsetsOf + of)
                            .set_dim({b + 1, 1, 1, 1})
                            .set_stride({1, 1, 1, 1})
                            .set_data_type(fe::DataType_t::INT64));
  };
  auto input = [&](Id id, int64_t heads, int64_t stride) {
    auto tensor = graph.tensor(operand(id, b, heads, s, c, stride));
    tensor->set_ragged_offset(offsets(id));
    return tensor;
  };
  const auto q = input(kQ, h, key.q_stride), k = input(kK, key.key_heads, key.k_stride),
             v = input(kV, key.key_heads, key.v_stride);
  const auto lengths = graph.tensor(TensorOf()
                                        .set_uid(kLengths)
                                        .set_dim({b, 1, 1, 1})
                                        .set_stride({1, 1, 1, 1})
                                        .set_data_type(fe::DataType_t::INT32));
  auto options = fe::graph::SDPA_attributes()
                     .set_name("attention")
                     .set_generate_stats(key.statistics)
                     .set_attn_scale(key.scale)
                     .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
                     .set_diagonal_band_right_bound(0)
                     .set_padding_mask(true)
                     .set_seq_len_q(lengths)
                     .set_seq_len_kv(lengths);
  auto [o, statistics] = graph.sdpa(q, k, v, options);
  o->set_output(true)
      .set_uid(kO)
      .set_dim({b, h, s, c})
      .set_stride({s * key.o_stride, c, key.o_stride, 1})
      .set_ragged_offset(offsets(kO));
  if (!key.statistics) return;
  statistics->set_output(true)
      .set_uid(kStatistics)
      .set_data_type(fe::DataType_t::FLOAT)
      .set_dim({b, h, s, 1})
      .set_stride({s * h, 1, h, 1})
      .set_ragged_offset(offsets(kStatistics));
}

/// Up to the choice of a kernel: what can be known without a device. Throws Error(failed) with cuDNN's
/// reason.
void choose_kernel(Graph& graph, cudnnHandle_t handle) {
  require(graph.validate());
  require(graph.build_operation_graph(handle));
  require(graph.create_execution_plans({fe::HeurMode_t::A}));
  require(graph.check_support());
}

/// What execution reads besides activations, per document: lengths, and each operand's first element.
struct Batch {
  static constexpr std::array<Id, 5> kOperands = {kQ, kK, kV, kO, kStatistics};
  std::vector<int64_t> offsets;  ///< [5, documents + 1]
  std::vector<int32_t> lengths;  ///< [documents]

  Batch(const Documents& docs, const AttentionPlanKey& key) {
    for (int64_t stride : {key.q_stride, key.k_stride, key.v_stride, key.o_stride, key.heads}) {
      int64_t entries = 0;
      for (int64_t s = 0; s < docs.count; s++)
        if (docs.offsets[s + 1] > docs.offsets[s]) offsets.push_back(docs.offsets[s] * stride), entries++;
      for (; entries <= key.documents; entries++) offsets.push_back(docs.tokens * stride);
    }
    for (int64_t s = 0; s < docs.count; s++)
      if (docs.offsets[s + 1] > docs.offsets[s]) lengths.push_back(docs.offsets[s + 1] - docs.offsets[s]);
    lengths.resize(size_t(key.documents), 0);
  }
};

int64_t power_of_two(int64_t n) { return int64_t(std::bit_ceil(uint64_t(std::max<int64_t>(n, 1)))); }

class CudnnAttention final : public AttentionLibrary {
 public:
  ~CudnnAttention() override {
    plans_.clear();
    if (handle_) fe::detail::destroy_handle(handle_);
  }
  std::string status() const override {
    std::lock_guard lock(mutex_);
    return status_;
  }

  bool forward(Context& ctx, const AttentionForward& op, const attention::Heads& heads) override {
    if (op.key_begin || op.o.dtype != DType::bf16 || op.docs.tokens == 0 ||
        !mma_takes(heads.size, {op.q, op.k, op.v, op.o}) || op.k.rows() != op.q.rows())
      return false;
    AttentionPlanKey key{0,
                         0,
                         heads.query,
                         heads.key,
                         heads.size,
                         op.q.row_stride,
                         op.k.row_stride,
                         op.v.row_stride,
                         op.o.row_stride,
                         bool(op.lse),
                         op.scale};
    for (int64_t s = 0; s < op.docs.count; s++) {
      const int64_t length = op.docs.offsets[s + 1] - op.docs.offsets[s];
      key.documents += length > 0, key.longest = std::max(key.longest, length);
    }
    key.documents = power_of_two(key.documents),
    key.longest = power_of_two(std::max<int64_t>(key.longest, 64));
    // Every document gets the blocks of the longest: with few long ones among many short ones most are idle.
    if (key.documents * key.longest > kMostPadding * std::max<int64_t>(op.docs.tokens, 4096)) return false;
    std::lock_guard lock(mutex_);  // a handle has one user at a time
    Graph* const plan = plan_for(key);
    if (!plan) return false;
    execute(ctx, op, key, *plan);
    return true;
  }

 private:
  static constexpr int64_t kMostPadding = 16;

  /// Told where the run is watched when it first happens, besides in status(): attention is slower from here.
  void refuse(const std::string& why) {
    status_ = cat(version(), "; own kernels where it refuses (", why, ")");
    const char* wanted = std::getenv("JAMBALAYA_ATTENTION");
    if (wanted && std::string_view(wanted) == "cudnn")
      throw Error(Exit::usage, cat("JAMBALAYA_ATTENTION=cudnn: ", why));
    if (!refused_)
      std::fprintf(stderr, "%s refuses an attention call, which our own kernels take: %s\n",
                   version().c_str(), why.c_str());
    refused_ = true;
  }

  /// Null: refused, now or before.
  Graph* plan_for(const AttentionPlanKey& key) {
    if (auto known = plans_.find(key); known != plans_.end()) return known->second.get();
    std::unique_ptr<Graph>& plan = plans_[key];
    try {
      if (!handle_ && fe::detail::create_handle(&handle_) != CUDNN_STATUS_SUCCESS)
        throw Error(Exit::failed, "cudnnCreate fails");
      auto graph = std::make_unique<Graph>();
      describe(*graph, key);
      choose_kernel(*graph, handle_);
      require(graph->build_plans());
      plan = std::move(graph);
    } catch (const std::exception& e) {
      refuse(e.what());
    }
    return plan.get();
  }

  void execute(Context& ctx, const AttentionForward& op, const AttentionPlanKey& key, const Graph& plan) {
    ArenaScope scope(*ctx.scratch);
    const Batch batch(op.docs, key);
    const Tensor offsets = to_device(ctx, batch.offsets, *ctx.scratch, "attention.offsets");
    const Tensor lengths = to_device(ctx, batch.lengths, *ctx.scratch, "attention.lengths");
    const Tensor statistics =
        key.statistics ? ctx.scratch->tensor(DType::f32, {op.docs.tokens, key.heads}, "attention.statistics")
                       : Tensor();
    std::unordered_map<int64_t, void*> memory = {
        {kQ, op.q.data}, {kK, op.k.data}, {kV, op.v.data}, {kO, op.o.data}, {kLengths, lengths.data}};
    if (key.statistics) memory[kStatistics] = statistics.data;
    for (size_t i = 0; i < Batch::kOperands.size(); i++)
      if (Batch::kOperands[i] != kStatistics || key.statistics)
        memory[kOffsetsOf + Batch::kOperands[i]] = offsets.address(int64_t(i) * (key.documents + 1));
    int64_t workspace = 0;
    require(plan.get_workspace_size(workspace));
    void* const room = ctx.scratch->take(workspace, "attention.workspace");
    if (fe::detail::set_stream(handle_, stream_of(ctx)) != CUDNN_STATUS_SUCCESS)
      throw Error(Exit::failed, "cudnnSetStream fails");
    require(plan.execute(handle_, memory, room));
    if (blocking()) check(cudaStreamSynchronize(stream_of(ctx)), "attention by cuDNN");
    if (key.statistics) transpose_statistics(ctx, statistics, op.lse);
  }

  mutable std::mutex mutex_;
  cudnnHandle_t handle_ = nullptr;
  std::map<AttentionPlanKey, std::unique_ptr<Graph>> plans_;
  std::string status_ = version();
  bool refused_ = false;
};

class OwnKernels final : public AttentionLibrary {
 public:
  explicit OwnKernels(const std::string& why) : status_(cat("own kernels (", why, ")")) {}
  bool forward(Context&, const AttentionForward&, const attention::Heads&) override { return false; }
  std::string status() const override { return status_; }

 private:
  std::string status_;
};

}  // namespace

std::unique_ptr<AttentionLibrary> make_attention_library(const AcceleratorProperties&) {
  const char* text = std::getenv("JAMBALAYA_ATTENTION");
  const std::string wanted = text ? text : "";
  if (!wanted.empty() && wanted != "own" && wanted != "cudnn")
    throw Error(Exit::usage, cat("JAMBALAYA_ATTENTION=", wanted, ": allowed are own, cudnn"));
  if (wanted == "own") return std::make_unique<OwnKernels>("JAMBALAYA_ATTENTION=own");
  if (library_problem().empty()) return std::make_unique<CudnnAttention>();
  if (wanted == "cudnn") throw Error(Exit::usage, cat("JAMBALAYA_ATTENTION=cudnn: ", library_problem()));
  return std::make_unique<OwnKernels>(library_problem());
}

std::string why_unsupported(const AttentionPlanKey& key, const std::string& device_json, int sm_version) {
  if (!library_problem().empty()) throw Error(Exit::failed, library_problem());
  auto device = std::make_shared<fe::DeviceProperties>();
  std::vector<uint8_t> bytes(device_json.begin(), device_json.end());
  bytes.push_back(0);
  require(device->deserialize(bytes));
  Graph graph;
  graph.set_device_properties(device).set_sm_version(sm_version);
  describe(graph, key);
  try {
    choose_kernel(graph, nullptr);
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

}  // namespace jambalaya::cuda
