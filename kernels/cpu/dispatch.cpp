// Chooses the vector kernels for this machine, once, at run time.
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "kernels/cpu/ops_cpu.h"

namespace jambalaya {

#define JAMBALAYA_TABLES(ns)                       \
  namespace ns {                                   \
  extern const GemmKernels gemm_kernels;           \
  extern const VocabKernels vocab_kernels;         \
  extern const NormKernels norm_kernels;           \
  extern const ConvKernels conv_kernels;           \
  extern const ScanKernels scan_kernels;           \
  extern const AttentionKernels attention_kernels; \
  extern const MoeKernels moe_kernels;             \
  extern const PointwiseKernels pointwise_kernels; \
  extern const OptimizerKernels optimizer_kernels; \
  }
JAMBALAYA_TABLES(isa_avx2)
JAMBALAYA_TABLES(isa_avx512)
JAMBALAYA_TABLES(isa_avx512bf16)
#undef JAMBALAYA_TABLES
namespace isa_amx {  // only its matrix products differ from AVX-512 with bf16
extern const GemmKernels gemm_kernels;
}

namespace {

#define JAMBALAYA_REST(ns)                                                                        \
  ns::vocab_kernels, ns::norm_kernels, ns::conv_kernels, ns::scan_kernels, ns::attention_kernels, \
      ns::moe_kernels, ns::pointwise_kernels, ns::optimizer_kernels
const VectorKernels kAvx2{"cpu (avx2)", isa_avx2::gemm_kernels, JAMBALAYA_REST(isa_avx2)};
const VectorKernels kAvx512{"cpu (avx512)", isa_avx512::gemm_kernels, JAMBALAYA_REST(isa_avx512)};
const VectorKernels kAvx512Bf16{"cpu (avx512-bf16)", isa_avx512bf16::gemm_kernels,
                                JAMBALAYA_REST(isa_avx512bf16)};
const VectorKernels kAmx{"cpu (amx)", isa_amx::gemm_kernels, JAMBALAYA_REST(isa_avx512bf16)};
#undef JAMBALAYA_REST

/// Linux hands out the AMX tile registers on request only (arch_prctl ARCH_REQ_XCOMP_PERM, feature 18).
bool amx_permitted() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

bool have_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
bool have_avx512_bf16() { return have_avx512() && __builtin_cpu_supports("avx512bf16"); }
bool have_amx() {
  if (!have_avx512_bf16()) return false;
  unsigned a = 7, b = 0, c = 0, d = 0;
  __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  bool tile = d >> 24 & 1, amx_bf16 = d >> 22 & 1;
  return tile && amx_bf16 && amx_permitted();
}

/// `from` is where the name comes from, for people: "JAMBALAYA_ISA=" or "instruction set ".
const VectorKernels& choose(const std::string& isa, const std::string& from) {
  struct Choice {
    const char* name;
    bool (*have)();
    const VectorKernels& kernels;
  };
  static const Choice choices[] = {
      {"amx", have_amx, kAmx},
      {"avx512-bf16", have_avx512_bf16, kAvx512Bf16},
      {"avx512", have_avx512, kAvx512},
      {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }, kAvx2},
  };
  std::string here;
  for (const auto& c : choices) {
    if (isa.empty() ? c.have() : isa == c.name && c.have()) return c.kernels;
    if (c.have()) here += cat(" ", c.name);
  }
  if (here.empty())
    throw Error(Exit::usage,
                "this CPU has neither AVX2 nor AVX-512: Jambalaya's CPU backend needs AVX2 and FMA");
  throw Error(Exit::usage,
              cat(from, isa, ": not an instruction set that this CPU has; choose one of:", here));
}

}  // namespace

Ops& cpu_ops(const char* isa) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<CpuOps>> made;
  std::string name = isa, from = "instruction set ";
  if (name.empty())
    if (const char* chosen = std::getenv("JAMBALAYA_ISA")) name = chosen, from = "JAMBALAYA_ISA=";
  std::lock_guard lock(mutex);
  auto& ops = made[name];
  if (!ops) ops = std::make_unique<CpuOps>(choose(name, from));
  return *ops;
}

}  // namespace jambalaya
