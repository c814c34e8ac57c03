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

// Highway's, kept to what oneDNN uses. Asked for once: SupportedTargets() itself chooses among all that the
// processor has, so whoever called it again would undo what is chosen here for good.
int64_t highway_targets() {
  static const int64_t chosen = [] {
    if (!has_avx512()) hwy::DisableTargets(HWY_AVX3 | HWY_AVX3_DL);
    const int64_t targets = hwy::SupportedTargets();
    hwy::GetChosenTarget().Update(targets);
    return targets;
  }();
  return chosen;
}

}  // namespace

std::string cpu_instruction_set() {
  return fmt::format("{}, {}", onednn_name(), (highway_targets() & HWY_AVX3) != 0 ? "avx512" : "avx2");
}

bool has_amx() {
  return isa() == dnnl::cpu_isa::avx512_core_amx;
}

bool has_bf16_products() {
  return isa() == dnnl::cpu_isa::avx512_core_bf16 || has_amx();
}

bool has_avx2() {
  return (highway_targets() & (HWY_AVX2 | HWY_AVX3)) != 0;
}

}  // namespace coppice
