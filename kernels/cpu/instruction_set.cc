#include "kernels/cpu/instruction_set.h"

#include <fmt/format.h>
#include <hwy/targets.h>

#include <oneapi/dnnl/dnnl.hpp>

namespace coppice {
namespace {

dnnl::cpu_isa isa() {
  static const dnnl::cpu_isa effective = dnnl::get_effective_cpu_isa();
  return effective;
}

std::string onednn_name() {
  switch (isa()) {
    case dnnl::cpu_isa::sse41:
      return "sse41";
    case dnnl::cpu_isa::avx:
      return "avx";
    case dnnl::cpu_isa::avx2:
      return "avx2";
    case dnnl::cpu_isa::avx2_vnni:
      return "avx2_vnni";
    case dnnl::cpu_isa::avx512_core:
      return "avx512_core";
    case dnnl::cpu_isa::avx512_core_vnni:
      return "avx512_core_vnni";
    case dnnl::cpu_isa::avx512_core_bf16:
      return "avx512_core_bf16";
    case dnnl::cpu_isa::avx512_core_amx:
      return "avx512_core_amx";
    default:
      return fmt::format("isa_{}", int(isa()));
  }
}

bool has_avx512() {
  return isa() == dnnl::cpu_isa::avx512_core || isa() == dnnl::cpu_isa::avx512_core_vnni ||
         has_bf16_products();
}

}  // namespace

std::string cpu_instruction_set() {
  return fmt::format("{}, {}", onednn_name(), (hwy::SupportedTargets() & HWY_AVX3) != 0 ? "avx512" : "avx2");
}

bool has_amx() {
  return isa() == dnnl::cpu_isa::avx512_core_amx;
}

bool has_bf16_products() {
  return isa() == dnnl::cpu_isa::avx512_core_bf16 || has_amx();
}

void follow_onednn() {
  constexpr int64_t kBeyondAvx2 = HWY_AVX3 | HWY_AVX3_DL;
  if (!has_avx512() && (hwy::SupportedTargets() & kBeyondAvx2) != 0) hwy::DisableTargets(kBeyondAvx2);
}

}  // namespace coppice
