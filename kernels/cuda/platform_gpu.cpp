// Device memory by the driver's virtual memory functions: an arena's addresses are reserved whole and get
// memory as it grows, so that its tensors never move and no arena holds more than it has used. The driver's
// library is found at run time, nothing links it.
#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/platform.h"

namespace jambalaya::cuda {
namespace {

/// Memory is asked for in pieces of this size: cuMemCreate and cuMemSetAccess take about a millisecond.
constexpr int64_t kPiece = int64_t(64) << 20;

int64_t round_up(int64_t n, int64_t to) { return div_up(n, to) * to; }

template <class F>
void find(F*& function, const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  check(cudaGetDriverEntryPointByVersion(name, &found, 10020, cudaEnableDefault, &result), name);
#else
  check(cudaGetDriverEntryPoint(name, &found, cudaEnableDefault, &result), name);
#endif
  if (result != cudaDriverEntryPointSuccess || !found)
    throw Error(Exit::usage, cat("device cuda: the NVIDIA driver has no ", name, ": update it"));
  function = reinterpret_cast<F*>(found);
}

struct Driver {
  decltype(cuGetErrorName)* error_name;
  decltype(cuMemGetAllocationGranularity)* granularity;
  decltype(cuMemAddressReserve)* reserve;
  decltype(cuMemAddressFree)* free_addresses;
  decltype(cuMemCreate)* create;
  decltype(cuMemRelease)* release;
  decltype(cuMemMap)* map;
  decltype(cuMemUnmap)* unmap;
  decltype(cuMemSetAccess)* set_access;

  Driver() {
    find(error_name, "cuGetErrorName");
    find(granularity, "cuMemGetAllocationGranularity");
    find(reserve, "cuMemAddressReserve");
    find(free_addresses, "cuMemAddressFree");
    find(create, "cuMemCreate");
    find(release, "cuMemRelease");
    find(map, "cuMemMap");
    find(unmap, "cuMemUnmap");
    find(set_access, "cuMemSetAccess");
  }
  static const Driver& get() {
    static const Driver functions;
    return functions;
  }
  void check(CUresult code, const char* what) const {
    if (code == CUDA_SUCCESS) return;
    const char* name = nullptr;
    error_name(code, &name);
    throw Error(Exit::failed, cat("CUDA: ", what, ": ", name ? name : cat("error ", int(code))));
  }
};

class MappedRange final : public DeviceRange {
 public:
  MappedRange(int device, int64_t bytes) {
    properties_.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties_.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    properties_.location.id = device;
    size_t granularity = 0;
    driver_.check(driver_.granularity(&granularity, &properties_, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
                  "cuMemGetAllocationGranularity");
    granularity_ = int64_t(granularity);
    reserved_ = round_up(std::max<int64_t>(bytes, 1), granularity_);
    if (driver_.reserve(&base_, size_t(reserved_), 0, 0, 0) != CUDA_SUCCESS)
      throw Error(Exit::io, cat("cannot reserve ", reserved_ >> 20, " MiB of the GPU's addresses"));
  }
  ~MappedRange() override {
    CUdeviceptr at = base_;
    for (const int64_t bytes : pieces_) driver_.unmap(at, size_t(bytes)), at += CUdeviceptr(bytes);
    driver_.free_addresses(base_, size_t(reserved_));
  }
  MappedRange(const MappedRange&) = delete;
  MappedRange& operator=(const MappedRange&) = delete;

  void* base() const override { return reinterpret_cast<void*>(base_); }

  void commit(int64_t bytes) override {
    if (bytes <= committed_) return;
    JAMBALAYA_CHECK(bytes <= reserved_, bytes, " of ", reserved_, " bytes");
    // Near the end of the device's memory a smaller piece may still fit.
    const int64_t least = round_up(bytes - committed_, granularity_);
    const int64_t usual = std::min(round_up(least, round_up(kPiece, granularity_)), reserved_ - committed_);
    if (!add(usual) && (usual == least || !add(least))) throw_device_full(least);
  }

 private:
  /// False when the device has not so much left.
  bool add(int64_t bytes) {
    CUmemGenericAllocationHandle memory{};
    const CUresult created = driver_.create(&memory, size_t(bytes), &properties_, 0);
    if (created == CUDA_ERROR_OUT_OF_MEMORY) return false;
    driver_.check(created, "cuMemCreate");
    const CUdeviceptr at = base_ + CUdeviceptr(committed_);
    const CUresult mapped = driver_.map(at, size_t(bytes), 0, memory, 0);
    driver_.release(memory);  // the mapping keeps it
    driver_.check(mapped, "cuMemMap");
    pieces_.push_back(bytes), committed_ += bytes;
    CUmemAccessDesc access{};
    access.location = properties_.location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    driver_.check(driver_.set_access(at, size_t(bytes), &access, 1), "cuMemSetAccess");
    return true;
  }

  const Driver& driver_ = Driver::get();
  CUmemAllocationProp properties_{};
  CUdeviceptr base_ = 0;
  int64_t granularity_ = 0, reserved_ = 0, committed_ = 0;
  std::vector<int64_t> pieces_;  ///< each must be unmapped as it was mapped
};

}  // namespace

std::unique_ptr<DeviceRange> reserve_range(int device, int64_t bytes) {
  return std::make_unique<MappedRange>(device, bytes);
}

std::unique_ptr<Ops> make_ops(const AcceleratorProperties& properties) {
  return std::make_unique<CudaOps>(properties);
}

bool emulated() { return false; }

const char* library_contents() { return JAMBALAYA_CUDA_CONTENTS; }

}  // namespace jambalaya::cuda
